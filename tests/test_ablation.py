"""Ablations: data, checked before anything trains; a table derived from records; files that are the same each time."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from data_helpers import NAME, random_interactions, records, write_dataset
from scipy.stats import ttest_rel

from recbole_genrec import benchmark, suite
from recbole_genrec.ablation import Ablation, read_ablation
from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation import ablation_plot
from recbole_genrec.evaluation.ablation import compare, report
from recbole_genrec.model.registry import OURS, models_of
from recbole_genrec.records import read_records, update_leaderboard, write_record
from recbole_genrec.settings import property_names
from recbole_genrec.validation import known_keys

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # RecBole's Config writes gpu_id into the environment; undone after each test.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))


@pytest.fixture
def call(tmp_path) -> list[str]:
    """All of a call on a tiny data set but the model and the ablation."""
    data = write_dataset(tmp_path / "dataset", random_interactions(users=12))
    return ["run", f"--dataset={NAME}", f"--config_files={data}", "--epochs=1", "--output_dir=out"]


def own(variants: dict, name: str = "mine", **more) -> str:
    """The option that chooses an ablation written for a test."""
    content = {"description": "A test.", "models": ["GenRec", "GRU4Rec", "Pop"], "variants": variants, **more}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return f"--ablation={name}.yaml"


TWO = {"base": {}, "unmasked": {"mask_history": False}}


@pytest.fixture
def planned(monkeypatch) -> list:
    """Takes the place of training: (configuration, labels) of every run that would be."""
    runs = []
    monkeypatch.setattr(suite, "run", lambda config, folder, **labels: runs.append((config, labels)) or {
        "model": config["model"], "dataset": config["dataset"], "status": "ok", **labels})
    return runs


# ----------------------------------------------------------------------------------------------- what ships with us

@pytest.mark.parametrize("name", property_names("ablation"))
def test_shipped_ablations_are_sound_and_every_key_is_read_by_their_models(name):
    ablation = read_ablation(name)
    assert (ablation.name, ablation.reference) == (name, next(iter(ablation.variants)))
    for model in set(ablation.models) & models_of(OURS).keys():
        ablation.check_keys(known_keys(model, "ml-100k"))


def test_mechanisms_and_lora_rank_say_what_they_should():
    switches = read_ablation("mechanisms").variants
    assert list(switches)[0] == "full" and switches["full"] == {} and len(switches) == 9
    assert switches["no_period_sampling"] == {"period_sampling": "off"}  # not False
    ranks = read_ablation("lora_rank")
    assert ranks.variants[ranks.reference] == {"lora_r": 8} and ranks.x == "lora_r" and ranks.needs == "pretrained"
    assert sorted(settings["lora_r"] for settings in ranks.variants.values()) == [2, 4, 8, 16, 32]


def test_an_installed_copy_has_them():
    """setup.py ships every folder of properties/."""
    script = ("import setuptools; got = {}; setuptools.setup = lambda **k: got.update(k); "
              "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py'}); print(got)")
    out = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "ablation/*.yaml" in out.stdout and "matplotlib" in out.stdout


# ------------------------------------------------------------------------------------------------------- expansion

def test_every_data_set_model_seed_and_variant_is_run_once_the_reference_first(call, planned):
    assert main([*call, "--model=Pop,GRU4Rec", "--seed=3,4", own(TWO)]) == 0
    assert [(config["model"], config["seed"], labels["variant"], config["mask_history"])
            for config, labels in planned] == [
        (model, seed, variant, mask) for model in ("Pop", "GRU4Rec") for seed in (3, 4)
        for variant, mask in (("base", None), ("unmasked", False))]
    assert {labels["ablation"] for _, labels in planned} == {"mine"}
    hashes = {(config["model"], labels["variant"]): labels for config, labels in planned}
    for (model, _), labels in hashes.items():
        assert labels["reference_hash"] == hashes[model, "base"]["variant_hash"]
    assert len({labels["variant_hash"] for _, labels in planned}) == 4  # the seed is no part of it


def test_a_variant_wins_over_the_call_and_mappings_are_merged(call, planned):
    variants = {"base": {}, "other": {"learning_rate": 0.5, "eval_args": {"order": "TO"}}}
    assert main([*call, "--model=GRU4Rec", "--learning_rate=0.25", own(variants)]) == 0
    assert [config["learning_rate"] for config, _ in planned] == [0.25, 0.5]
    assert planned[0][0]["eval_args"] == planned[1][0]["eval_args"]


def test_a_skipped_variant_is_not_run_and_says_why(call, planned, capsys):
    skip = {"GRU4Rec": {"unmasked": "it makes no sense"}}
    assert main([*call, "--model=Pop,GRU4Rec", own({**TWO, "k": {"topk": [1, 10]}}, skip=skip)]) == 0
    assert [(config["model"], labels["variant"]) for config, labels in planned] == [
        ("Pop", "base"), ("Pop", "unmasked"), ("Pop", "k"), ("GRU4Rec", "base"), ("GRU4Rec", "k")]
    assert "skipped: it makes no sense" in capsys.readouterr().out


def test_a_call_without_ablation_is_as_it_was(call, planned):
    assert main([*call, "--model=Pop"]) == 0
    (_, labels), = planned
    assert labels == {} and not Path("out/ablations").exists()


# ------------------------------------------------------------------------------------------------------ validation

def refused(capsys, planned, *arguments: str) -> str:
    """The one line of a call that is refused before anything is run."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and planned == []
    return err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("options, said", [
    (["--ablation=genrek"], "unknown ablation 'genrek'; did you mean 'genrec'?"),
    (["--ablation=zzz"], "unknown ablation 'zzz'; known: genrec, item_index, lora_rank, mechanisms; or give a YAML file"),
    (["--ablation="], "unknown ablation ''; known: genrec"),
    (["--ablation=../model/GenRec"], "unknown ablation '../model/GenRec'"),
    (["--ablation=none.yaml"], "cannot read none.yaml"),
    (["--ablation=mechanisms"], "ablation 'mechanisms' is for RecSysLLM, not for 'GenRec'"),
    (["--ablation=lora_rank"],
     "ablation 'lora_rank' needs a pre-trained backbone and --llm=tiny-llama is a scratch one"),
    (["--ablation=genrec", "--objective=vocabulary"],
     "ablation 'genrec': variant 'vocabulary' is the same as 'default' under the settings given"),
    (["--ablation=genrec", "--topk=5", "--valid_metric=NDCG@5"], "compares ndcg@10 and hit@10, which topk=[5]"),
    (["--ablation=genrec", "--epochz=5"], "unknown configuration key 'epochz'; did you mean 'epochs'?"),
    (["--ablation=genrec", "--epochs=-5"], "epochs=-5 must be"),  # the user's own, without a variant's name
])
def test_a_call_that_cannot_be(call, capsys, planned, options, said):
    assert said in refused(capsys, planned, *call, "--model=GenRec", *options)


@pytest.mark.parametrize("variants, more, said", [
    ({"base": {}, "b": {"epochz": 1}}, {}, "variant 'b': unknown configuration key 'epochz'; did you mean 'epochs'?"),
    ({"base": {}, "b": {"entity_mask": False}}, {}, "variant 'b': unknown configuration key 'entity_mask'"),
    ({"base": {}, "b": {"epochs": -1}}, {}, "ablation 'mine', variant 'b': epochs=-1 must be"),
    ({"base": {}, "b": {"seed": 1}}, {}, "variant 'b' may not set 'seed'"),
    ({"base": {}, "b": {}}, {}, "variant 'b' is the same as 'base'"),
    ({"base": {}, "b": {"show_progress": True}}, {}, "variant 'b' is the same as 'base'"),
    ({"base": {}, "b": 5}, {}, "variant 'b' must be a mapping of settings, not 5"),
    ({"base": {}, False: {"epochs": 2}}, {}, "the variant name False is no text"),
    ({"base": {}, "a/b": {"epochs": 2}}, {}, "the variant name 'a/b' must be letters"),
    ({"base": {}}, {}, "'variants' holds one only"),
    ({}, {}, "'variants' is missing"),
    ([1], {}, "variants=[1] must be a mapping"),
    (TWO, {"modles": 1}, "unknown key 'modles'; did you mean 'models'?"),
    (TWO, {"models": []}, "'models' is missing"),
    (TWO, {"models": "Pop"}, "models='Pop' must be a list"),
    (TWO, {"models": [5]}, "models holds 5"),
    (TWO, {"models": ["GenRec"]}, "ablation 'mine' is for GenRec, not for 'Pop'"),
    (TWO, {"needs": "gpu"}, "needs='gpu' is not 'pretrained'"),
    (TWO, {"x": "epochs"}, "variant 'base' gives it no number above 0"),
    ({"a": {"epochs": True}, "b": {"epochs": 0}}, {"x": "epochs"}, "variant 'a' gives it no number above 0"),
    (TWO, {"skip": {"Popp": {}}}, "skip names 'Popp'; did you mean 'Pop'?"),
    (TWO, {"skip": {"Pop": {"unmask": "why"}}}, "skip names no variant: 'unmask'; did you mean 'unmasked'?"),
    (TWO, {"skip": {"Pop": {"base": "why"}}}, "the reference 'base' cannot be skipped"),
    (TWO, {"skip": {"Pop": ["unmasked"]}}, "skip of 'Pop' must be a mapping"),
])
def test_a_yaml_that_cannot_be(call, capsys, planned, variants, more, said):
    assert said in refused(capsys, planned, *call, "--model=Pop", own(variants, **more))


def test_lora_rank_runs_where_there_is_a_model_to_adapt(call, planned):
    Path("my-llama").mkdir()
    Path("my-llama/config.json").write_text("{}")
    assert main([*call, "--model=GenRec", "--llm=my-llama", "--ablation=lora_rank"]) == 0
    assert [config["lora_r"] for config, _ in planned] == [8, 2, 4, 16, 32]


def test_a_folder_that_cannot_be_written_is_found_before_training(call, capsys, planned):
    Path("out").mkdir()
    Path("out/ablations").write_text("mine")
    assert "cannot be written" in refused(capsys, planned, *call, "--model=Pop", own(TWO))


def test_help_says_which_setting_wins(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--ablation=genrec" in said and "the variant wins" in said


# ------------------------------------------------------------------------------------------------------- the table

ABLATION = Ablation("abl", "What a and b are worth.", ["M"], {"full": {}, "no_a": {"a": False}, "no_b": {"b": False}})


def gain(rank: float) -> float:
    return 0.0 if math.isnan(rank) or rank > 10 else 1 / math.log2(rank + 1)


def add(variant: str, seed: int, ranks: list[float] | None, second: int = 0, users=None, **facts) -> dict:
    """A run's folder: a record with the metrics of these ranks, and the list of users in a shuffled order."""
    run_id = f"{variant}-{seed}-{second}-{len(list(Path('out/runs').glob('*')))}"
    folder = Path("out/runs") / run_id
    folder.mkdir(parents=True)
    record = {"run_id": run_id, "timestamp": f"2026-01-01T00:00:{second:02}Z", "dataset": "D", "model": "M",
              "seed": seed, "ablation": "abl", "variant": variant, "reference_hash": "r", "variant_hash": variant,
              "status": "failed" if ranks is None else "ok"}
    if ranks is not None:
        record |= {"ndcg@10": float(np.mean([gain(rank) for rank in ranks])), "split_fingerprint": "s",
                   "hit@10": float(np.mean([rank <= 10 for rank in ranks])), "valid": {"ndcg@10": 0.1 * seed}}
        table = pd.DataFrame({"user": [f"u{n}" for n in users or range(len(ranks))], "rank": ranks})
        table["rank"] = table["rank"].astype("Int64")
        table.sample(frac=1, random_state=seed).to_parquet(folder / "per_user.parquet", index=False)
    write_record(folder, {**record, **facts})
    return record


def table():
    return compare(ABLATION, "M", "D", read_records(Path("out"))[0], Path("out"))


NAN = math.nan
RANKS = {("full", 1): [1, 2, 3, NAN, 1, 7, 1, 2], ("full", 2): [2, 1, 3, 12, 1, 4, 2, 3],
         ("no_a", 1): [4, 2, 9, NAN, 2, NAN, 3, 8], ("no_a", 2): [5, NAN, 3, 11, 1, 10, 6, 9],
         ("no_b", 1): [1, 2, 4, NAN, 1, 6, 1, 2], ("no_b", 2): [2, 1, 3, 2, 1, 5, 2, 3]}


@pytest.fixture
def six_runs():
    for (variant, seed), ranks in RANKS.items():
        add(variant, seed, ranks)


def test_the_figures_are_those_of_a_calculation_by_hand_and_of_scipy(six_runs):
    full, no_a, no_b = rows = table().rows
    gains = {key: np.array([gain(rank) for rank in ranks]) for key, ranks in RANKS.items()}
    means = {variant: (gains[variant, 1] + gains[variant, 2]) / 2 for variant in ABLATION.variants}
    for row in rows:
        one, two = gains[row.variant, 1].mean(), gains[row.variant, 2].mean()
        assert row.mean("ndcg@10") == pytest.approx((one + two) / 2)
        assert row.sd("ndcg@10") == pytest.approx(abs(one - two) / math.sqrt(2))
        assert row.mean("valid_ndcg@10") == pytest.approx(0.15) and row.status == "ok" and len(row.runs) == 2
    assert no_a.mean("hit@10") == pytest.approx((6 / 8 + 6 / 8) / 2) and no_a.sd("hit@10") == 0
    for row in (no_a, no_b):
        assert row.difference == pytest.approx((means[row.variant] - means["full"]).mean())
        assert row.p == pytest.approx(ttest_rel(means[row.variant], means["full"]).pvalue)
    assert full.difference is full.p is None
    assert no_a.p < no_b.p and (no_a.p_holm, no_b.p_holm) == (pytest.approx(2 * no_a.p), pytest.approx(no_b.p))
    assert no_a.p_holm < 0.05 < no_b.p_holm and (no_a.mark != "", no_b.mark) == (True, "")
    assert table().users == 8


def test_other_seeds_extend_the_table_and_only_shared_ones_are_compared(six_runs):
    before = table()
    add("full", 3, [1] * 8)
    after = table()
    assert list(after.rows[0].values["ndcg@10"]) == [1, 2, 3] and list(after.rows[1].values["ndcg@10"]) == [1, 2]
    assert after.rows[0].mean("ndcg@10") > before.rows[0].mean("ndcg@10")
    assert [(row.difference, row.p) for row in after.rows] == [(row.difference, row.p) for row in before.rows]


def test_the_newest_good_run_of_a_seed_counts(six_runs):
    good = add("no_b", 1, [1] * 8, second=1)
    add("no_b", 1, None, second=2, reason="RuntimeError: later and worse")
    row = table().rows[2]
    assert row.runs[0] == good["run_id"] and row.values["ndcg@10"][1] == 1 and row.status == "ok"


@pytest.mark.parametrize("facts", [{"reference_hash": "other"}, {"split_fingerprint": "other"}])
def test_runs_with_other_settings_or_another_split_stay_out(six_runs, facts):
    before = table()
    add("no_b", 9, [1] * 8, **{**facts, "timestamp": "2025-01-01T00:00:00Z"})
    after = table()
    assert after.rows == before.rows and after.left_out == 1 and "1 older run(s)" in after.as_markdown()
    add("full", 9, [1] * 8, second=9, **facts)  # the newest decides
    assert [len(row.runs) for row in table().rows] == ([1, 0, 1])


def test_a_variant_whose_settings_changed_starts_anew(six_runs):
    add("no_a", 1, [1] * 8, second=1, variant_hash="changed")
    assert [len(row.runs) for row in table().rows] == [2, 1, 2] and table().left_out == 2


def test_foreign_runs_are_never_in_it(six_runs):
    before = table()
    for facts in ({"ablation": "x"}, {"model": "X"}, {"dataset": "X"}, {"variant": "gone"}, {"ablation": None}):
        add(facts.pop("variant", "full"), 8, [1] * 8, second=5, **facts)
    for facts in ({"seed": None}, {"ndcg@10": None}):  # not written by us
        add("no_b", facts.pop("seed", 8), None, **{"status": "ok", **facts, "timestamp": ""})
    assert [(row.values, row.p) for row in table().rows] == [(row.values, row.p) for row in before.rows]


def test_without_the_same_users_there_is_a_difference_but_no_p(six_runs):
    add("no_a", 1, RANKS["no_a", 1], second=1, users=range(1, 9))
    (Path("out/runs") / table().rows[2].runs[0] / "per_user.parquet").write_bytes(b"torn")
    _, no_a, no_b = table().rows
    assert no_a.p is no_b.p is no_a.p_holm is None and no_a.difference < 0 and table().users is None
    assert "t-test" not in table().as_markdown()


def test_variants_that_rank_alike_do_not_differ():
    for variant in ("full", "no_a"):
        add(variant, 1, [1, 2, 3])
    _, no_a, no_b = table().rows
    assert (no_a.difference, no_a.p, no_a.mark) == (0.0, 1.0, "")
    assert no_a.sd("ndcg@10") is None and "±" not in no_a.status and no_b.status == "no run"


def test_a_failure_is_a_row_with_its_status(six_runs):
    add("no_a", 3, None, reason="RuntimeError: out of | memory\nand more")
    for path in Path("out/runs").glob("no_b-*/record.json"):
        path.unlink()
    add("no_b", 1, None, status="interrupted", reason="interrupted from the keyboard")
    _, no_a, no_b = table().rows
    assert no_a.status == "ok; seed 3 failed: RuntimeError: out of | memory and more" and len(no_a.runs) == 2
    assert no_b.status == "seed 1 interrupted: interrupted from the keyboard" and no_b.mean("ndcg@10") is None
    line, = [line for line in table().as_markdown().splitlines() if line.startswith("| no_a")]
    assert line.count("|") == 10  # the reason's own bar would be a cell
    assert "interrupted" in ablation_plot.plot(table())


def test_no_reference_no_difference():
    add("no_a", 1, [1, 2])
    assert table().rows[0].status == "no run" and table().rows[1].difference is None
    ElementTree.fromstring(ablation_plot.plot(table()))


# ------------------------------------------------------------------------------------------------------- the files

def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("out/ablations").iterdir()}


def test_three_files_hold_the_table_and_are_the_same_each_time(six_runs, capsys):
    report(ABLATION, Path("out"))
    said, first = capsys.readouterr().out, files()
    report(ABLATION, Path("out"), [("M", "D")])
    assert capsys.readouterr().out == said and files() == first
    assert sorted(first) == ["abl-M-D.csv", "abl-M-D.md", "abl-M-D.svg"]
    with open("out/ablations/abl-M-D.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    for row, expected in zip(rows, table().rows):
        assert (row["variant"], row["seeds"], row["runs"].split()) == (expected.variant, "1 2", expected.runs)
        assert float(row["ndcg@10"]) == expected.mean("ndcg@10")
        assert float(row["hit@10_sd"]) == expected.sd("hit@10")
        assert row["p"] == ("" if expected.p is None else repr(expected.p))
    text = first["abl-M-D.md"].decode()
    assert text.startswith("# abl: M on D\n") and "| no_a " in text and "`a: false`" in text and "8 users" in text
    svg = first["abl-M-D.svg"].decode()
    ElementTree.fromstring(svg)
    assert ">no_a<" in svg and "dc:date" not in svg and "test ndcg@10" in svg


def test_the_plot_is_the_same_in_another_process_and_under_another_style(six_runs):
    Path("matplotlibrc").write_text("lines.linewidth: 9\nsvg.hashsalt: other\n")
    script = ("from pathlib import Path\nfrom test_ablation import table\n"
              "from recbole_genrec.evaluation.ablation_plot import plot\nPath('other.svg').write_text(plot(table()))")
    subprocess.run([sys.executable, "-c", script], check=True, env={
        **os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}", "PYTHONHASHSEED": "7"})
    assert Path("other.svg").read_text() == ablation_plot.plot(table())


def test_a_sweep_is_drawn_over_its_key(six_runs):
    sweep = Ablation("abl", "A sweep.", ["M"], {"full": {"r": 8}, "no_a": {"r": 2}, "no_b": {"r": 0.5}}, x="r")
    result = compare(sweep, "M", "D", read_records(Path("out"))[0], Path("out"))
    svg = ablation_plot.plot(result)
    ElementTree.fromstring(svg)
    assert all(f">{text}<" in svg for text in ("8", "2", "0.5", "r"))
    rows = list(csv.DictReader(result.as_csv().splitlines()))
    assert [row["r"] for row in rows] == ["8", "2", "0.5"]


def test_a_plot_that_breaks_loses_no_table(six_runs, monkeypatch, caplog):
    monkeypatch.setattr(ablation_plot, "plot", lambda table: 1 / 0)
    report(ABLATION, Path("out"))
    assert sorted(files()) == ["abl-M-D.csv", "abl-M-D.md"] and "ZeroDivisionError" in caplog.text


def test_without_runs_there_is_nothing_to_make_again(capsys):
    with pytest.raises(UserError, match="no run of ablation 'abl'"):
        report(ABLATION, Path("nowhere"))
    assert main(["ablation", "genrec", "--output_dir=nowhere"]) == 2
    assert main(["ablation", "genrek"]) == 2 and "did you mean 'genrec'" in capsys.readouterr().err
    assert main(["ablation", "genrec", "--epochs=1"]) == 2
    assert not Path("nowhere").exists()


# ------------------------------------------------------------------------------------------------------- real runs

def test_a_real_ablation_from_call_to_files(call, capsys):
    variants = own({"full": {}, "beams": {"norm": "full", "decode": "beam"}})
    arguments = [*call, "--model=GenRec", variants, "--validity_users=0"]
    assert main([*arguments, "--seed=1,2"]) == 0
    out = capsys.readouterr().out
    assert "mine: GenRec on tiny" in out and "paired t-test over 12 users" in out
    found = records(Path("out"))
    assert sorted((record["variant"], record["seed"]) for record in found) == [
        ("beams", 1), ("beams", 2), ("full", 1), ("full", 2)]
    assert {(record["ablation"], record["norm"]) for record in found if record["variant"] == "beams"} == {
        ("mine", "full")}
    assert len({record["config_hash"] for record in found}) == 4
    with open("out/leaderboard.csv", newline="") as file:
        assert {(row["ablation"], row["variant"]) for row in csv.DictReader(file)} == {
            ("mine", "full"), ("mine", "beams")}
    with open(f"out/ablations/mine-GenRec-{NAME}.csv", newline="") as file:
        full, beams = csv.DictReader(file)
    mean = np.mean([record["ndcg@10"] for record in found if record["variant"] == "beams"])
    assert float(beams["ndcg@10"]) == pytest.approx(mean) and full["difference"] == "" and beams["p"] != ""
    gains = {variant: np.mean([per_user_gains(record) for record in found if record["variant"] == variant], axis=0)
             for variant in ("full", "beams")}
    if (gains["full"] != gains["beams"]).any():
        assert float(beams["p"]) == pytest.approx(ttest_rel(gains["beams"], gains["full"]).pvalue)

    before = files()
    assert main(["ablation", "mine.yaml", "--output_dir=out"]) == 0 and files() == before
    assert main([*arguments, "--seed=3"]) == 0  # extends the table
    with open(f"out/ablations/mine-GenRec-{NAME}.csv", newline="") as file:
        assert [row["seeds"] for row in csv.DictReader(file)] == ["1 2 3"] * 2


def per_user_gains(record: dict) -> np.ndarray:
    path = Path("out/runs") / record["run_id"] / "per_user.parquet"
    users = pd.read_parquet(path).sort_values("user")
    return np.array([gain(rank) for rank in users["rank"].to_numpy(dtype=float, na_value=NAN)])


def test_a_variant_that_fails_is_a_row_and_the_others_go_on(call, capsys, monkeypatch):
    measure = benchmark._measure

    def breaks_unmasked(config, run_dir):
        if config["mask_history"] is False:
            raise RuntimeError("out of\nmemory")
        return measure(config, run_dir)
    monkeypatch.setattr(benchmark, "_measure", breaks_unmasked)
    assert main([*call, "--model=Pop", own({**TWO, "k": {"topk": [1, 10]}})]) == 1
    out = capsys.readouterr().out
    assert "seed 2023 failed: RuntimeError: out of memory" in out
    with open(f"out/ablations/mine-Pop-{NAME}.csv", newline="") as file:
        base, unmasked, k = csv.DictReader(file)
    assert unmasked["status"].startswith("seed 2023 failed") and unmasked["ndcg@10"] == unmasked["difference"] == ""
    assert (base["status"], k["status"], float(k["difference"]), float(k["p"])) == ("ok", "ok", 0.0, 1.0)
    assert base["valid_ndcg@10"] == ""  # Pop is not validated


def test_records_without_an_ablation_have_empty_cells(tmp_path):
    run = tmp_path / "out" / "runs" / "a"
    run.mkdir(parents=True)
    write_record(run, {"run_id": "a", "timestamp": "t", "status": "ok"})
    header, row = update_leaderboard(tmp_path / "out")[0].read_text().splitlines()
    cells = dict(zip(header.split(","), row.split(",")))
    assert cells["ablation"] == cells["variant"] == ""
