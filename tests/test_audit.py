"""The audit: a row is possible if and only if some distribution of ranks gives it, by brute force and by simulation."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from data_helpers import NAME, random_interactions, records, write_dataset
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linprog

from recbole_genrec.cli import main
from recbole_genrec.evaluation.audit import Cell, feasible, judge, of_record, parse_metric, published

ROW = {"hit@5": "0.0190", "ndcg@5": "0.0136", "hit@10": "0.0251", "ndcg@10": "0.0157"}
#: Rows that the papers print and that no distribution of ranks gives (table, data set, model).
IMPOSSIBLE = {
    ("Ji et al. 2023, Table 1", "ml-25m", "GRU4Rec"), ("Ji et al. 2023, Table 1", "ml-25m", "SASRec"),
    ("Ji et al. 2023, Table 1", "ml-25m", "GenRec"), ("Ji et al. 2023, Table 1", "amazon-toys", "GRU4Rec"),
    ("Ji et al. 2023, Table 1", "amazon-toys", "SASRec"),
    ("Chu et al. 2023, Table 4 (sequential)", "amazon-sports", "RecSysLLM"),
    ("Chu et al. 2023, Table 4 (sequential)", "amazon-sports", "RecSysLLM (unseen prompts)"),
    ("Chu et al. 2023, Table 4 (sequential)", "amazon-beauty", "RecSysLLM"),
    ("Chu et al. 2023, Table 4 (sequential)", "amazon-toys", "P5 (unseen prompts)"),
    ("Chu et al. 2023, Table 7 (direct)", "amazon-sports", "RecSysLLM"),
    ("Chu et al. 2023, Table 7 (direct)", "amazon-sports", "RecSysLLM (unseen prompts)"),
    ("Chu et al. 2023, Table 7 (direct)", "amazon-beauty", "RecSysLLM (unseen prompts)"),
    ("Chu et al. 2023, Table 7 (direct)", "amazon-toys", "RecSysLLM (unseen prompts)"),
    ("Chu et al. 2023, Table 8 (next item)", "alipay", "ChatGLM+SFT"),
    ("Chu et al. 2023, Table 8 (next item)", "alipay", "RecSysLLM"),
    ("Chu et al. 2023, Table 9 (candidates)", "alipay", "ChatGLM+SFT"),
    ("Chu et al. 2023, Table 9 (candidates)", "alipay", "RecSysLLM"),
}


def measured(ranks: list[int], cuts: list[int]) -> dict[str, float]:
    """hit@k and ndcg@k of one target per user, by their definitions."""
    return {f"{name}@{k}": sum(gain(rank) for rank in ranks if rank <= k) / len(ranks) for k in cuts
            for name, gain in (("hit", lambda rank: 1.0), ("ndcg", lambda rank: 1 / math.log2(rank + 1)))}


def possible(cells: dict[tuple[str, int], tuple[float, float]]) -> bool:
    """Whether some distribution over the ranks 1..K+1 gives every value within its limits."""
    last = max(k for _, k in cells)
    ranks = np.arange(1, last + 2)
    rows, limits = [], []
    for (kind, k), (low, high) in cells.items():
        weights = np.where(ranks <= k, 1 / np.log2(ranks + 1) if kind == "ndcg" else 1.0, 0.0)
        rows += [weights, -weights]
        limits += [high, -low]
    return linprog(np.zeros(len(ranks)), rows, limits, [np.ones(len(ranks))], [1.0]).status == 0


CUTS = st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), CUTS, st.integers(2, 6), st.booleans())
def test_what_was_measured_is_possible_however_it_is_rounded(ranks, cuts, places, percent):
    row = measured(ranks, cuts)
    assert judge(row) == []
    scale = 100 if percent else 1
    assert judge({name: f"{value * scale:.{places}f}" for name, value in row.items()}, percent=percent) == []


VALUES = st.integers(0, 400).map(lambda value: value / 1000)


@given(st.dictionaries(st.tuples(st.sampled_from(["hit", "ndcg"]), st.sampled_from([1, 2, 5, 10, 20])), VALUES,
                       min_size=2, max_size=6))
def test_the_verdict_is_that_of_a_programme_over_all_ranks(values):
    """``feasible`` looks at two ranks between neighbouring cut-offs; brute force at all of them."""
    off = feasible({key: Cell(value, 0.0005) for key, value in values.items()})
    assume(not 0 < off < 1e-5)  # on the edge either answer will do
    limits = {key: (max(0.0, value - 0.0005), value + 0.0005) for key, value in values.items()}
    assert (off <= 1e-6) == possible(limits)
    row = {f"{kind}@{k}": f"{value:.3f}" for (kind, k), value in values.items()}
    if ("hit", 1) in values and ("ndcg", 1) in values:
        return  # judge() also knows that the two are one number, where this test's limits are two
    assert (judge(row) == []) == possible(limits)


@pytest.mark.parametrize("change, named", [
    ({"ndcg@10": "0.0300"}, "ndcg@10 = 0.0300 is above hit@10 = 0.0251"),
    ({"ndcg@5": "0.0050", "ndcg@10": "0.0070"}, "ndcg@5 = 0.0050 is below hit@5/log2(6)"),
    ({"hit@10": "0.0180", "ndcg@10": "0.0136"}, "hit@5 = 0.019 is above hit@10 = 0.018"),
    ({"ndcg@10": "0.0130"}, "ndcg@5 = 0.0136 is above ndcg@10 = 0.013"),
    ({"ndcg@10": "0.0150"}, "ndcg@10 - ndcg@5 = 0.0014 is not within [0.289, 0.356] x (hit@10 - hit@5 = 0.0061)"),
    ({"hit@1": "0.0100", "ndcg@1": "0.0090"}, "ndcg@1 = 0.0090 is not hit@1 = 0.0100"),
    ({"hit@1": "0.0010"}, "ndcg@5 - ndcg@1 = 0.0126 is not within [0.387, 0.631]"),
    ({"ndcg@1": "0.0010"}, "ndcg@5 - ndcg@1 = 0.0126"),
    ({"recall@5": "0.0210"}, "another hit@5"),
    ({"hit@5": "-0.2"}, "hit@5 = -0.2 is no share"),
    ({"hit@5_untied": "0.10", "ndcg@5_untied": "0.20"}, "untied: ndcg@5 = 0.2000 is above hit@5"),
])
def test_the_broken_bound_is_named_with_its_numbers(change, named):
    assert judge(ROW) == []
    assert any(named in bound for bound in judge({**ROW, **change}))


def test_a_row_that_breaks_no_simple_bound_may_still_be_impossible():
    """ndcg@5 alone leaves too little room for hits that hit@2 and hit@10 do not see."""
    row = {"hit@2": "0.1000", "ndcg@5": "0.0500", "hit@10": "0.1000", "ndcg@10": "0.0700"}
    assert not possible({("hit", 2): (0.09995, 0.10005), ("ndcg", 5): (0.04995, 0.05005),
                         ("hit", 10): (0.09995, 0.10005), ("ndcg", 10): (0.06995, 0.07005)})
    assert "no distribution of ranks" in judge(row)[0]


def test_rounding_is_that_of_each_cell():
    assert judge({"hit@10": "0.10", "ndcg@10": "0.104"}) == []  # 0.1046 is printed as 0.10
    assert judge({"hit@10": "0.1000", "ndcg@10": "0.104"})
    assert judge({"hit@10": "10.0", "ndcg@10": "10.04"}) == [] and judge({"hit@10": "10.00", "ndcg@10": "10.04"})
    assert judge({"hit@10": "10.0%", "ndcg@10": "0.1004"}) == []
    assert judge({"hit@10": 0.1, "ndcg@10": 0.1004})  # numbers: as exact as the longest of the row


def test_names_of_metrics():
    same = ["hit@5", "HR@5", "H@5", "recall@5", "Recall @5", "HitRate@5", "Hit Ratio@5"]
    assert {parse_metric(name) for name in same} == {("hit", 5, "")}
    assert parse_metric("N@10") == parse_metric("NDCG@10") == ("ndcg", 10, "")
    assert parse_metric("ndcg@10_untied") == ("ndcg", 10, "_untied")
    assert [parse_metric(name) for name in ("mrr@10", "itemcoverage@10", "hit", "hit@0", "valid_rate")] == [None] * 5


# ---------------------------------------------------------------------------------------------- published and our own

def test_the_published_rows_that_are_flagged_are_those_that_no_distribution_gives():
    table = published()
    flagged = {(row.source, row.dataset, row.model) for row in table.itertuples() if row.verdict == "impossible"}
    assert flagged == IMPOSSIBLE
    for row in table.itertuples():
        limits = {parse_metric(name)[:2]: (float(value) - 0.00005, float(value) + 0.00005)
                  for name, value in row.metrics.items()}
        assert possible(limits) == (row.verdict == "ok"), row
        assert bool(row.broken) == (row.verdict != "ok")
        assert all(len(value) == 6 for value in row.metrics.values())  # "0.0190", with its last digit
    s3rec = table[table["source"].str.startswith("Zhou")]
    assert len(s3rec) == 10 and (s3rec["verdict"] == "ok").all()


def test_every_run_is_audited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path, random_interactions(users=12))
    assert main(["run", "--model=Pop", f"--dataset={NAME}", f"--config_files={data}", "--output_dir=out"]) == 0
    record, = records(Path("out"))
    assert record["audit"] == "ok" and main(["audit", "out/leaderboard.csv"]) == 0
    record["ndcg@5"] = record["hit@5"] + 0.1
    assert "ndcg@5" in of_record(record)
    record = {"other_prompts": {"unseen": {"hit@5": 0.125, "ndcg@5": 0.25}}}
    assert of_record(record).startswith("unseen prompts: ndcg@5")


# ---------------------------------------------------------------------------------------------------------- the command

def table(*lines: str) -> str:
    Path("table.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return "table.csv"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_line_a_row_and_the_exit_code(capsys):
    head = "data set,Model,HR@5,NDCG@5,HR@10,NDCG@10,note"
    fair, foul = "toys,A,0.0190,0.0136,0.0251,0.0157,", "toys,B,0.0184,0.0124,0.0218,0.0142,x"
    assert main(["audit", table(head, fair)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "ok: toys A"
    assert main(["audit", table(head, fair, foul, "toys,C,,-,n/a,,")]) == 1
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == "ok: toys A" and third == "ok: toys C" and last.startswith("1 of 3 rows")
    assert second.startswith("impossible: toys B: ndcg@10 - ndcg@5 = 0.0018 is not within [0.289, 0.356]")


def test_percent_is_of_the_whole_table_and_ornament_is_no_number(capsys):
    assert main(["audit", table("m;H@1;H@10;N@10", "A;0.20;**5.10***;<b>2.20</b>", "B;0.10;0.90;0.40")]) == 0
    assert main(["audit", table("m\tH@1\tH@10\tN@10", "A\t0.20\t5.10\t2.20", "B\t0.95\t0.90\t0.40")]) == 1
    assert "impossible: B: hit@1 = 0.0095 is above hit@10 = 0.009" in capsys.readouterr().out


@pytest.mark.parametrize("lines, said", [
    (["model,hit", "A,0.1"], "no column like hit@10"), (["model,hit@5"], "no rows"), ([""], "no rows"),
    (["model,hit@5", "A,0.1", "B,many"], "row 2 of table.csv: 'many' in column hit@5 is no number"),
    (["model,hit@5", "A,0.1,0.2"], "row 1 of table.csv has 3 cells, its header 2"),
    (["model,hit@5", "A,1000"], "above 100"), (["model,hit@5", 'A,"0.1'], "no CSV"),
])
def test_a_mistake_is_one_line(capsys, lines, said):
    assert main(["audit", table(*lines)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_mistakes_in_the_call(capsys):
    Path("bytes.csv").write_bytes(b"\xff\xfe\x00")
    for call in (["nowhere.csv"], ["."], ["bytes.csv"], [], ["a.csv", "--published"], ["a.csv", "b.csv"], ["--x=1"]):
        assert main(["audit", *call]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_published_on_the_command_line(capsys):
    assert main(["audit", "--published"]) == 1
    out = capsys.readouterr().out
    assert "Ji et al. 2023, Table 1" in out and out.endswith(f"{len(IMPOSSIBLE)} of {len(published())} rows are "
                                                             "impossible with one target per user\n")


def test_a_leaderboard_shows_the_rows_by_run_id(capsys):
    with open("leaderboard.csv", "w", newline="") as file:
        csv.writer(file).writerows([["run_id", "seed", "hit@5", "ndcg@5"], ["run-1", 7, 0.5, 0.4],
                                    ["run-2", 7, "", ""]])
    assert main(["audit", "leaderboard.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["ok: run-1", "ok: run-2"]
