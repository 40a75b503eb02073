"""The table of an ablation, derived from records, and its files, which are the same each time."""

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
from scipy.stats import ttest_rel

from recbole_genrec.ablation import Ablation
from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation import ablation_plot, ablation_report
from recbole_genrec.evaluation.ablation import compare
from recbole_genrec.evaluation.ablation_report import report
from recbole_genrec.records import read_records, write_record

REPOSITORY = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("own_folder")


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
    script = ("from pathlib import Path\nfrom test_ablation_table import table\n"
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
    monkeypatch.setattr(ablation_report, "plot", lambda table: 1 / 0)
    report(ABLATION, Path("out"))
    assert sorted(files()) == ["abl-M-D.csv", "abl-M-D.md"] and "ZeroDivisionError" in caplog.text


def test_without_runs_there_is_nothing_to_make_again(capsys):
    with pytest.raises(UserError, match="no run of ablation 'abl'"):
        report(ABLATION, Path("nowhere"))
    assert main(["ablation", "genrec", "--output_dir=nowhere"]) == 2
    assert main(["ablation", "genrek"]) == 2 and "did you mean 'genrec'" in capsys.readouterr().err
    assert main(["ablation", "genrec", "--epochs=1"]) == 2
    assert not Path("nowhere").exists()
