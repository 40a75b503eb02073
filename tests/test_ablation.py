"""Ablations: data, checked before anything trains; what is run; real runs from the call to the files."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from data_helpers import NAME, random_interactions, records, write_dataset
from scipy.stats import ttest_rel
from test_ablation_table import NAN, files, gain

from recbole_genrec import benchmark, suite
from recbole_genrec.ablation import read_ablation
from recbole_genrec.cli import main
from recbole_genrec.model.registry import OURS, models_of
from recbole_genrec.records import update_leaderboard, write_record
from recbole_genrec.settings import property_names
from recbole_genrec.validation import known_keys

REPOSITORY = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.usefixtures("own_folder")


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
    monkeypatch.setattr(suite, "run", lambda config, folder, wait, **labels: runs.append((config, labels)) or {
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
    (["--ablation=zzz"],
     "unknown ablation 'zzz'; known: genrec, item_index, levers, lora_rank, mechanisms; or give a YAML file"),
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

    def breaks_unmasked(config, *rest):
        if config["mask_history"] is False:
            raise RuntimeError("out of\nmemory")
        return measure(config, *rest)
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
