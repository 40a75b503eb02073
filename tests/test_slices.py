"""Slices of a run's users, what its lists and its free texts are like: by brute force and by RecBole's own metrics."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import NAME, load, per_user, random_interactions, records, write_dataset
from recbole.evaluator import metrics as theirs

from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.popularity import list_metrics, training_counts
from recbole_genrec.evaluation.slices import by_history, by_memory, by_popularity, by_tie
from recbole_genrec.evaluation.validity import NEAR, free_generation, near_misses
from recbole_genrec.records import rows_of, update_leaderboard

NAMES = ("itemcoverage", "giniindex", "averagepopularity", "tailpercentage")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of Pop on a data set with items that occur once, and all of its interactions."""
    monkeypatch.chdir(tmp_path)
    interactions = random_interactions(users=30, items=20, longest=14)
    interactions += [(f"u{user}", f"late{user}", 99.0) for user in range(5)]
    data = write_dataset(tmp_path, interactions)
    assert main(["run", "--model=Pop", f"--dataset={NAME}", f"--config_files={data}", "--output_dir=out"]) == 0
    record, = records(Path("out"))
    return record, interactions, data


def training(interactions) -> Counter:
    """Items of all but each user's last two interactions."""
    by_user: dict[str, list] = {}
    for user, item, time in sorted(interactions, key=lambda row: row[2]):
        by_user.setdefault(user, []).append(item)
    return Counter(item for items in by_user.values() for item in items[:-2])


def test_a_run_knows_how_often_each_target_occurs_in_training(run):
    record, interactions, data = run
    users, counts = per_user(Path("out"), record), training(interactions)
    assert users["target_count"].tolist() == [counts[target] for target in users["target"]]
    assert (users["target_count"] == 0).sum() >= 5 and users["target_count"].max() > 1
    loaded = load(data)
    named = loaded.dataset.field2id_token["item_id"]
    assert {named[item]: count for item, count in enumerate(training_counts(loaded.parts[0])) if count} == counts


@pytest.mark.parametrize("slices, column", [(by_history, "history"), (by_popularity, "target_count")])
def test_slices_are_the_users_between_two_edges(run, slices, column):
    record, *_ = run
    users = per_user(Path("out"), record)
    result = slices(record, "out", metrics=("hit@5", "ndcg@10"), edges=(0, 4, 7))
    rank = users["rank"].astype(float)
    for name, low, high in (("0", 0, 0), ("1-4", 1, 4), ("5-7", 5, 7), ("8+", 8, np.inf)):
        members = users[column].between(low, high)
        row = result[result["slice"] == name]
        assert len(row) == int(members.any())
        if members.any():
            assert row["users"].item() == members.sum()
            assert row["hit@5"].item() == (rank[members] <= 5).mean()
            gains = [1 / np.log2(r + 1) if r <= 10 else 0 for r in rank[members]]
            assert row["ndcg@10"].item() == pytest.approx(np.mean(gains))
    assert result["users"].sum() == record["users"]
    assert (result["users"] * result["hit@5"]).sum() / record["users"] == pytest.approx(record["hit@5"])


def test_cold_targets_stand_alone(run):
    record, *_ = run
    assert by_popularity(record, "out")["slice"].iloc[0] == "0"


def rewrite(record, change) -> None:
    path = Path("out/runs") / record["run_id"] / "per_user.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def test_ties(run):
    record, *_ = run
    kinds = pd.array([True, False, False, None] * 10, dtype="boolean")
    rewrite(record, lambda users: users.assign(tied=kinds[:len(users)], rank=[1, 2, 11, None] * 7 + [1, 2]))
    result = by_tie(record, "out").set_index("slice")
    assert result["users"].to_dict() == {"untied": 15, "tied": 8, "unknown": 7}
    assert result["hit@10"].to_dict() == pytest.approx({"untied": 8 / 15, "tied": 1, "unknown": 0})


def test_what_training_could_tell_by_heart(run):
    record, interactions, data = run
    histories: dict[str, list] = {}
    for user, item, time in sorted(interactions, key=lambda row: row[2]):
        histories.setdefault(user, []).append(item)
    pairs = {pair for items in histories.values() for pair in zip(items[:-2], items[1:-2])}
    met = {(a, b) for items in histories.values() for a in items[:-2] for b in items[:-2]}
    users = per_user(Path("out"), record)
    kinds = ["followed" if (histories[user][-2], histories[user][-1]) in pairs else
             "together" if any((item, histories[user][-1]) in met for item in histories[user][:-1]) else "neither"
             for user in users["user"]]
    result = by_memory(record, "out", load(data), metrics=("hit@5",)).set_index("slice")
    assert result["users"].to_dict() == Counter(kinds) and len(result) == 3
    hits = (users["rank"].astype(float) <= 5).groupby(kinds).mean()
    assert result["hit@5"].to_dict() == pytest.approx(hits.to_dict())


def test_older_runs_and_lost_files(run):
    record, *_ = run
    rewrite(record, lambda users: users.drop(columns="target_count"))
    assert list(by_popularity(record, "out").columns) == ["slice", "users", "hit@10", "ndcg@10"]
    assert by_popularity(record, "out").empty and not by_history(record, "out").empty
    (Path("out/runs") / record["run_id"] / "per_user.parquet").unlink()
    with pytest.raises(UserError, match="cannot read .*per_user.parquet"):
        by_history(record, "out")


# ---------------------------------------------------------------------------------------------- what is recommended

def recboles(config, lists, counts) -> dict[str, float]:
    facts = {"rec.items": torch.tensor(lists), "data.num_items": len(counts) - 1,
             "data.count_items": Counter({item: int(count) for item, count in enumerate(counts) if count})}
    result = {}
    for metric in (theirs.ItemCoverage, theirs.GiniIndex, theirs.AveragePopularity, theirs.TailPercentage):
        result.update(metric(config).calculate_metric(facts))
    return result


@pytest.mark.parametrize("tail", [None, 0.4, 3])
def test_metrics_of_lists_are_recboles(tail):
    dice = np.random.default_rng(1)
    lists = [dice.permutation(np.arange(1, 31))[:10].tolist() for _ in range(12)]
    counts = np.r_[0, dice.integers(0, 9, 30)]
    config = {"topk": [1, 5, 10], "metric_decimal_place": 6, "tail_ratio": tail}
    assert list_metrics(config, lists, counts) == pytest.approx(recboles(config, lists, counts))
    short = [*lists, lists[0][:7]]
    expected = recboles({**config, "topk": [1, 5]}, [row[:5] for row in short], counts)
    assert list_metrics(config, short, counts) == {**dict.fromkeys(f"{name}@10" for name in NAMES),
                                                   **{name: pytest.approx(value) for name, value in expected.items()}}
    assert set(list_metrics(config, [[]], counts).values()) == {None}


def test_a_record_holds_them_and_the_leaderboard_does_not(run):
    record, interactions, _ = run
    lists, items = per_user(Path("out"), record)["topk"], {item for _, item, _ in interactions}
    for k in (1, 5, 10):
        assert record[f"itemcoverage@{k}"] == pytest.approx(len({item for row in lists for item in row[:k]})
                                                            / len(items))
    counts = training(interactions)
    assert record["averagepopularity@1"] == pytest.approx(np.mean([counts[row[0]] for row in lists]))
    assert 0 < record["giniindex@10"] < 1 and record["tailpercentage@10"] < 0.5
    assert not any(name in update_leaderboard(Path("out"))[0].read_text() for name in NAMES)


# ------------------------------------------------------------------------------------------------- free generation

TITLES = {"The Lion King (1994)": 1, "Heat (1995)": 2, "Alien": 3}


def test_near_misses_are_counted_by_edit_distance():
    near = ["The Lion King (1995)", "The Lion King (1994) ", "Heat (199)", "Alian"]
    far = ["The Lion", "Alien: Resurrection", "xyz", "Heat"]
    assert near_misses(near, list(TITLES)) == len(near) and near_misses(far, list(TITLES)) == 0
    assert near_misses(["Alixx"], list(TITLES)) == 0 and NEAR == 0.2  # 2 of 5
    assert near_misses([], list(TITLES)) == near_misses(["x"], []) == 0


def test_outputs_are_valid_near_empty_or_else():
    said = [["Alien", "Alien", "Alian", "", "nonsense"], ["Heat (1995)", "", "", "Heat (1996)", "Heat"]]
    items = torch.tensor([[TITLES.get(text, 0) for text in row] for row in said])
    prompts = SimpleNamespace(groups=lambda: [0], rows=lambda rows: rows, lengths=[1, 1])
    model = SimpleNamespace(device="cpu", spelled=TITLES, prompt_of=lambda interaction: prompts,
                            write=lambda rows, beams: (items, said, None))
    result = free_generation(model, [(torch.zeros(2),)], 2, beams=5)
    assert result == pytest.approx({"valid_rate": 0.3, "duplicate_rate": 1 / 3, "near_miss_rate": 0.2,
                                    "empty_rate": 0.3, "validity_users": 2, "validity_beams": 5})


def test_a_generative_run_says_so_in_its_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path, random_interactions(users=12))
    assert main(["run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={data}", "--output_dir=out",
                 "--epochs=1", "--validity_users=4"]) == 0
    record, = records(Path("out"))
    assert record["valid_rate"] + record["near_miss_rate"] + record["empty_rate"] <= 1 + 1e-9
    assert record["audit"] == "ok" and record["itemcoverage@10"] > 0
    other = rows_of({**record, "other_prompts": {"unseen": {"hit@5": 0.0}}})[1]
    assert not {"near_miss_rate", "empty_rate", "itemcoverage@10"} & other.keys()
