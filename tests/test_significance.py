"""Significance: the same figures as scipy's and statsmodels', from records and lists of users alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, ttest_rel, wilcoxon
from statsmodels.stats.multitest import multipletests

from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.significance import compare, gains, holm, interval, mark
from recbole_genrec.records import read_records, write_record

NAN = math.nan


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def gain(rank: float, k: int = 10) -> float:
    return 0.0 if math.isnan(rank) or rank > k else 1 / math.log2(rank + 1)


def add(model: str, seed: int, ranks, second: int = 0, users=None, name: str = "per_user", **facts) -> dict:
    """A run's folder: a record with the metrics of these ranks, and the list of users in a shuffled order."""
    run_id = facts.pop("run_id", f"{model}-{seed}-{len(list(Path('out/runs').glob('*')))}")
    folder = Path("out/runs") / run_id
    folder.mkdir(parents=True, exist_ok=True)
    record = {"run_id": run_id, "timestamp": f"2026-01-01T00:00:{second:02}Z", "dataset": "D", "model": model,
              "seed": seed, "status": "ok", "split_fingerprint": "s", "mask_history": True,
              "ndcg@10": float(np.mean([gain(rank) for rank in ranks])),
              "hit@10": float(np.mean([rank <= 10 for rank in ranks])), "config_hash": run_id, **facts}
    table = pd.DataFrame({"user": [f"u{n}" for n in users or range(len(ranks))], "rank": ranks})
    table["rank"] = table["rank"].astype("Int64")
    table.sample(frac=1, random_state=seed).to_parquet(folder / f"{name}.parquet", index=False)
    write_record(folder, record)
    return record


def ranks(best: int, seed: int, users: int = 60) -> list[float]:
    """Ranks from ``best`` on, some targets not recommended."""
    dice = np.random.default_rng(seed)
    return [NAN if dice.random() < 0.2 else float(best + dice.geometric(0.3)) for _ in range(users)]


def table(metric: str = "ndcg@10", **more) -> pd.DataFrame:
    return compare(read_records(Path("out"))[0], "out", metric, **more).set_index("model", drop=False)


RUNS = {("GenRec", 1): ranks(0, 1), ("GenRec", 2): ranks(0, 2), ("SASRec", 1): ranks(2, 3), ("SASRec", 2): ranks(2, 4),
        ("SASRec", 3): ranks(2, 5), ("Pop", 1): ranks(5, 6)}


@pytest.fixture
def six_runs():
    for (model, seed), these in RUNS.items():
        add(model, seed, these, backbone="tiny-llama" if model == "GenRec" else None)


# ------------------------------------------------------------------------------------------------------------ the parts

@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_that_of_statsmodels(p):
    expected = multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(list(expected))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_marks():
    assert [mark(p) for p in (None, NAN, 0.05, 0.049, 0.01, 0.009, 0.0009)] == ["", "", "", "*", "*", "**", "***"]


def test_gains_by_definition():
    rank = np.array([1, 2, 10, 11, NAN])
    assert gains(rank, "hit@10").tolist() == [1, 1, 1, 0, 0]
    assert gains(rank, "ndcg@10") == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    for metric in ("mrr@10", "ndcg", "ndcg@0", "NDCG@10", "hit@10_untied"):
        with pytest.raises(UserError, match="is not hit@K or ndcg@K"):
            gains(rank, metric)


@pytest.mark.parametrize("users", [30, 400])
@pytest.mark.parametrize("metric", ["hit@10", "ndcg@10"])
def test_the_interval_is_scipys(users, metric):
    gain = gains(np.array(ranks(1, 9, users)), metric)
    low, high = interval(gain)
    theirs = bootstrap((gain,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1))
    spread = np.std(gain) / math.sqrt(users)  # both are random: they agree within their own error, 5 % of the spread
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * spread)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * spread)
    assert low < gain.mean() < high and interval(gain) == (low, high)
    narrow = interval(gain, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(300):
        sample = (np.random.default_rng(seed).random(200) < 0.3).astype(float)
        low, high = interval(sample, 0.9, 500)
        covered += low <= 0.3 <= high
    assert 0.85 < covered / 300 < 0.95


# ------------------------------------------------------------------------------------------------------------ the table

def test_the_figures_are_those_of_a_calculation_by_hand_and_of_scipy(six_runs):
    result = table()
    gained = {key: np.array([gain(rank) for rank in these]) for key, these in RUNS.items()}
    seeds = {"GenRec": [1, 2], "SASRec": [1, 2, 3], "Pop": [1]}
    users = {model: np.mean([gained[model, seed] for seed in seeds[model]], axis=0) for model in seeds}
    assert result["model"].tolist() == ["GenRec", "SASRec", "Pop"]
    assert result["baseline"].tolist() == [False, True, False]
    for model, row in result.iterrows():
        means = [gained[model, seed].mean() for seed in seeds[model]]
        assert row["mean"] == pytest.approx(np.mean(means)) and row["n_seeds"] == len(means)
        assert row["sd"] == pytest.approx(np.std(means, ddof=1)) if len(means) > 1 else math.isnan(row["sd"])
        assert (row["ci_low"], row["ci_high"]) == interval(users[model])
    tests = [[test(users[model], users["SASRec"]).pvalue for model in ("GenRec", "Pop")]
             for test in (ttest_rel, wilcoxon)]
    for column, p in zip(("p_t", "p_wilcoxon"), tests):
        assert result.loc[["GenRec", "Pop"], column].tolist() == pytest.approx(
            multipletests(p, method="holm")[1].tolist())
    assert result.loc["GenRec", "difference"] == pytest.approx(users["GenRec"].mean() - users["SASRec"].mean())
    assert math.isnan(result.loc["SASRec", "p_t"]) and result.loc["SASRec", "mark"] == ""
    assert result.loc["GenRec", "mark"].startswith("*")
    assert result.loc["Pop", "p_t"] < 0.05 and result.loc["Pop", "mark"] == ""  # worse is no merit


def test_a_mark_needs_both_tests():
    """A few users with large gains move the mean; most users are a little worse off."""
    add("SASRec", 1, [5.0] * 40)
    add("GenRec", 1, [1.0] * 12 + [6.0] * 28, backbone="b")
    row = table().loc["GenRec"]
    assert row["p_t"] < 0.01 and row["p_wilcoxon"] > 0.5 and row["difference"] > 0 and row["mark"] == ""


def test_leaky_rows_and_the_probe_are_no_baseline_and_bear_no_mark(six_runs):
    add("IDAdjacency", 1, [1.0] * 60)
    add("P5", 1, [1.0] * 60, leaky=True, backbone="tiny-t5")
    add("Caser", 1, [1.0] * 60, leaky=True)
    result = table()
    assert result[result["baseline"]]["model"].tolist() == ["SASRec"]
    others = ["P5", "Caser", "IDAdjacency"]
    assert result.loc[others, "mark"].tolist() == ["", "", ""] and (result.loc[others, "difference"] > 0).all()
    assert result.loc[others, "p_t"].isna().all()


def test_a_ranking_of_candidates_is_not_compared_with_one_of_all_items(six_runs):
    add("GRU4Rec", 1, [1.0] * 60, candidates=100, candidates_fingerprint="c")
    result = table()
    assert result.loc["GRU4Rec", "baseline"] and math.isnan(result.loc["GRU4Rec", "difference"])
    assert result[result["candidates_fingerprint"].isna()]["baseline"].sum() == 1


def test_only_rows_of_one_split_and_one_masking_are_compared(six_runs):
    add("GRU4Rec", 1, ranks(1, 7), split_fingerprint="other")
    add("GRU4Rec", 1, ranks(1, 8), mask_history=False)
    add("FDSA", 1, ranks(1, 9), dataset="E")
    result = table()
    assert result.groupby(["dataset", "split_fingerprint", "mask_history"])["baseline"].sum().tolist() == [1, 1, 1, 1]
    assert result.loc["GRU4Rec", "baseline"].all() and result.loc["GRU4Rec", "p_t"].isna().all()
    assert set(table(dataset="E")["dataset"]) == {"E"} and len(table(dataset="D")) == 5


def test_without_a_baseline_there_is_nothing_to_test():
    add("GenRec", 1, ranks(1, 1), backbone="b")
    row = table().loc["GenRec"]
    assert not row["baseline"] and math.isnan(row["difference"]) and not math.isnan(row["ci_low"])


def test_without_the_same_users_there_is_a_difference_but_no_p(six_runs):
    add("HGN", 1, ranks(3, 1), users=range(1, 61))
    torn = add("FDSA", 1, ranks(3, 2))
    (Path("out/runs") / torn["run_id"] / "per_user.parquet").write_bytes(b"torn")
    result = table()
    assert result.loc[["HGN", "FDSA"], "p_t"].isna().all() and result.loc[["HGN", "FDSA"], "difference"].notna().all()
    assert math.isnan(result.loc["FDSA", "ci_low"]) and not math.isnan(result.loc["HGN", "ci_low"])


def test_groups(six_runs):
    """What is not the same model is another row: backbone, index, ablation's variant, prompts."""
    for facts in ({"backbone": "other"}, {"backbone": "tiny-llama", "item_index": "semantic"},
                  {"backbone": "tiny-llama", "ablation": "a", "variant": "v"}):
        add("GenRec", 1, ranks(0, 1), **facts)
    made = add("P5", 1, ranks(0, 1), backbone="tiny-t5", prompts="seen", run_id="p5",
               other_prompts={"unseen": {"ndcg@10": 0.01, "hit@10": 0.1}})
    add("P5", 1, [NAN] * 59 + [1.0], backbone="tiny-t5", run_id="p5", name="per_user.unseen",
        **{key: made[key] for key in ("other_prompts", "prompts", "ndcg@10", "hit@10")})
    result = table()
    assert (result["model"] == "GenRec").sum() == 4
    unseen = result[result["prompts"] == "unseen"].iloc[0]
    assert unseen["mean"] == 0.01 and unseen["ci_high"] < 0.1 and unseen["users"] == 60
    assert result[result["prompts"] == "seen"].iloc[0]["mean"] == pytest.approx(made["ndcg@10"])
    assert (result["variant"] == "v").sum() == (result["item_index"] == "semantic").sum() == 1


def test_an_ablation_is_a_family_of_its_own(six_runs):
    before = table()
    for number in range(5):
        add("GenRec", 1, ranks(1, 20 + number), backbone="tiny-llama", ablation="a", variant=f"v{number}")
    after = table()
    plain = after[after["variant"].isna()]
    assert plain["p_t"].tolist() == pytest.approx(before["p_t"].tolist(), nan_ok=True)


def test_settings_of_the_newest_run_count_and_of_a_seed_the_newest_run():
    def config(record, text):
        (Path("out/runs") / record["run_id"] / "config.yaml").write_text(text)
    config(add("SASRec", 1, ranks(2, 1), second=1), "seed: 1\nlearning_rate: 0.1\n")
    config(add("SASRec", 1, ranks(2, 2), second=2), "seed: 1\nlearning_rate: 0.001\n")
    again = add("SASRec", 1, ranks(2, 3), second=3)
    config(again, "seed: 1\nlearning_rate: 0.001\nnew_key: 1\n")
    newest = add("SASRec", 2, ranks(2, 4), second=4)
    config(newest, "seed: 2\nlearning_rate: 0.001\n")
    row = table().loc["SASRec"]
    assert (row["runs"].split(), row["n_seeds"], row["left_out"]) == ([again["run_id"], newest["run_id"]], 2, 2)


def test_failed_runs_do_not_count(six_runs):
    add("Pop", 1, [1.0] * 60, second=9, status="failed")
    add("Pop", 1, [1.0] * 60, second=9, **{"ndcg@10": None})
    assert table().loc["Pop", "mean"] == pytest.approx(np.mean([gain(rank) for rank in RUNS["Pop", 1]]))


def test_other_metrics(six_runs):
    assert table("hit@10").loc["Pop", "mean"] == np.mean([rank <= 10 for rank in RUNS["Pop", 1]])


# ---------------------------------------------------------------------------------------------------------- the command

def test_the_command_prints_the_table_and_writes_it(six_runs, capsys):
    add("GenRec", 1, ranks(0, 1), backbone="tiny-llama", ablation="a", variant="v")
    assert main(["compare", "--output_dir=out"]) == 0
    out = capsys.readouterr().out
    line, = [line for line in out.splitlines() if line.startswith("GenRec")]
    assert "tiny-llama" in line and "±" in line and "*" in line and "1 variant(s)" in out
    assert any(line.startswith("SASRec") and "best baseline" in line for line in out.splitlines())
    written = pd.read_csv("out/significance.csv")
    expected = table()
    assert written["model"].tolist() == expected["model"].tolist() and set(written["metric"]) == {"ndcg@10"}
    assert written["p_t"].tolist() == pytest.approx(expected["p_t"].tolist(), nan_ok=True)
    first = Path("out/significance.csv").read_bytes()
    assert main(["compare", "--output_dir=out", "--metric=ndcg@10", "--dataset=D"]) == 0
    assert Path("out/significance.csv").read_bytes() == first
    assert not list(Path("out").glob(".significance*"))


@pytest.mark.parametrize("call, said", [
    (["--output_dir=nowhere"], "no run under"), (["--dataset=X"], "on data set 'X'; data sets: D"),
    (["--metric=mrr@10"], "is not hit@K or ndcg@K"), (["--metric=ndcg@7"], "has ndcg@7"), (["--seed=1"], "--seed=1"),
])
def test_a_mistake_is_one_line(six_runs, capsys, call, said):
    assert main(["compare", "--output_dir=out", *call]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not Path("nowhere").exists()
    assert not Path("out/significance.csv").exists()


# ------------------------------------------------------------------------------------------------------- the front page

def test_settings_with_a_name_of_their_own_are_a_row_of_their_own(six_runs):
    add("SASRec", 1, ranks(1, 7), settings_label="tuned")
    rows = compare(read_records(Path("out"))[0], "out").query("model == 'SASRec'")
    assert dict(zip(rows["settings_label"].fillna(""), rows["n_seeds"])) == {"tuned": 1, "": 3}
    assert rows["baseline"].sum() == 1


def test_the_front_table_says_what_compare_says(six_runs, capsys):
    add("SASRec", 1, ranks(1, 7), settings_label="tuned", train_seconds=90.0, eval_users_per_second=1234.0,
        **{"ndcg@10_untied": 0.25})
    add("IDAdjacency", 1, ranks(0, 8))
    add("P5", 1, ranks(3, 9), backbone="tiny-t5", prompts="seen", item_index="sequential", leaky=True)
    expected = compare(read_records(Path("out"))[0], "out")
    assert main(["compare", "--front", "--every", "--dataset=D", "--output_dir=out"]) == 0
    head, _, *lines = [[cell.strip() for cell in line.strip("|\n").split("|")]
                       for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(expected)
    for line, row in zip(lines, expected.to_dict("records")):
        cells = dict(zip(head, line))
        assert cells["model"].strip("*") == row["model"] and cells["model"].startswith("**") is row["baseline"]
        assert cells["ndcg@10"].startswith(f"{row['mean']:.4f}"[1:]) and cells["seeds"] == str(row["n_seeds"])
        assert ("**leaky**" in line[1]) is (row["leaky"] or row["model"] == "IDAdjacency")
        if row["settings_label"] == "tuned":
            assert [cells[name] for name in ("untied", "training, min", "users/s")] == [".2500", "1.5", "1,234"]
            assert "tuned" in line[1]
    assert main(["compare", "--front", "--output_dir=out"]) == 2
    assert main(["compare", "--every", "--output_dir=out"]) == 2


def test_the_front_table_has_each_model_as_validation_chose_it(six_runs, capsys):
    """The settings that are better in validation, though worse on test; leaky rows and those told numbers apart."""
    add("SASRec", 1, ranks(9, 9), settings_label="searched", valid={"ndcg@10": 0.9})
    add("SASRec", 1, ranks(0, 7), settings_label="lucky", valid={"ndcg@10": 0.1})
    add("P5", 1, ranks(3, 9), backbone="tiny-t5", settings_label="fair", item_index="title")
    add("P5", 1, ranks(3, 9), backbone="tiny-t5", item_index="sequential", leaky=True)
    for label, settings in (("titles", ""), ("both", "item_prior: 1.0\n"), ("old form", "item_embedding: true\n")):
        run_id = add("GenRec", 1, ranks(3, 9), settings_label=label, backbone="tiny-llama",
                     valid={"ndcg@10": 0.2 if label == "both" else 0.1})["run_id"]
        Path(f"out/runs/{run_id}/config.yaml").write_text(settings)
    assert main(["compare", "--front", "--dataset=D", "--output_dir=out"]) == 0
    table = capsys.readouterr().out
    assert table.count("SASRec") == 1 and "searched" in table and "lucky" not in table
    assert table.count("P5") == 2 and "fair" in table
    assert table.count("GenRec") == 2 and "titles" in table and "both" in table
