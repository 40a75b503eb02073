"""Every model through the one door, on one tiny data set: same split, same targets, honest records."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_helpers import NAME, per_user, random_interactions, records, write_dataset

from recbole_genrec.cli import main

BASELINES = ["GRU4Rec", "SASRec", "SASRecPlus", "ItemLM", "BERT4Rec", "Caser", "S3Rec", "HGN", "FDSA", "Pop",
             "IDAdjacency"]
#: Small layers; every key is read by at least one of the baselines.
SMALL = ["--epochs=1", "--hidden_size=16", "--embedding_size=16", "--inner_size=16", "--n_heads=2", "--n_layers=1",
         "--num_layers=1", "--pretrain_epochs=1", "--nv=2", "--nh=2"]
INTERACTIONS = random_interactions(users=45)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    classes = {f"i{item}": f"c{item % 3} c{item % 4}" for item in range(30)}
    return write_dataset(folder, INTERACTIONS, classes=classes)


@pytest.fixture(scope="module")
def output(data, tmp_path_factory) -> Path:
    """All baselines, one call, from an empty folder."""
    folder, before = tmp_path_factory.mktemp("work"), os.getcwd()
    os.chdir(folder)
    try:
        code = main(["run", f"--model={','.join(BASELINES)}", f"--dataset={NAME}", f"--config_files={data}", *SMALL])
    finally:
        os.chdir(before)
    assert code == 0
    assert [path.name for path in folder.iterdir()] == ["results"], "something was left in the working folder"
    return folder / "results"


@pytest.fixture(scope="module")
def by_model(output) -> dict[str, dict]:
    found = {record["model"]: record for record in records(output)}
    assert set(found) == set(BASELINES)
    return found


def test_every_baseline_ends_ok_on_the_same_split(by_model):
    assert {record["status"] for record in by_model.values()} == {"ok"}
    assert len({record["split_fingerprint"] for record in by_model.values()}) == 1
    assert len({record["dataset_fingerprint"] for record in by_model.values()}) == 1
    assert len({record["config_hash"] for record in by_model.values()}) == len(BASELINES)
    trained = {model for model, record in by_model.items() if record["trainable_parameters"] > 0}
    assert trained == set(BASELINES) - {"Pop", "IDAdjacency"}
    assert all(by_model[model]["epochs_done"] == 1 and by_model[model]["train_seconds"] > 0 for model in trained)


def test_s3rec_is_pretrained_first(by_model):
    assert [point.get("stage") for point in by_model["S3Rec"]["curve"]] == ["pretrain", None]


def test_targets_are_each_users_last_item(by_model, output):
    last = {}
    for user, item, time in sorted(INTERACTIONS, key=lambda row: row[2]):
        last[user] = item
    for record in by_model.values():
        table = per_user(output, record)
        assert dict(zip(table["user"], table["target"])) == last, record["model"]


def test_metrics_of_a_record_follow_from_its_per_user_table(by_model, output):
    for model, record in by_model.items():
        rank = per_user(output, record)["rank"].astype(float).to_numpy()
        for k in (1, 5, 10):
            hit = rank <= k
            assert record[f"hit@{k}"] == pytest.approx(hit.mean(), abs=1e-9), model
            gain = np.where(hit, 1 / np.log2(rank + 1), 0).mean()
            assert record[f"ndcg@{k}"] == pytest.approx(gain, abs=1e-9), model


def test_rank_is_the_place_in_the_list(by_model, output):
    for record in by_model.values():
        for row in per_user(output, record).itertuples():
            items = list(row.topk)
            assert len(set(items)) == len(items) == 10
            assert (items.index(row.target) + 1 == row.rank) if row.target in items else not row.rank <= 10


def test_history_is_never_recommended_and_unmasked_metrics_are_there(by_model, output):
    taken = {}
    for user, item, _ in INTERACTIONS:
        taken.setdefault(user, set()).add(item)
    for record in by_model.values():
        assert record["mask_history"] is True
        for row in per_user(output, record).itertuples():
            assert not set(row.topk) & (taken[row.user] - {row.target}), record["model"]
        # Removing wrong items can only lift the target.
        for k in (1, 5, 10):
            assert 0 <= record[f"hit@{k}_unmasked"] <= record[f"hit@{k}"] + 1e-9
            assert record[f"ndcg@{k}_untied"] == pytest.approx(record[f"ndcg@{k}"], abs=1e-9)  # no tied times here
        assert record["untied_users"] == record["users"] == 45
    assert any(record["hit@10_unmasked"] < record["hit@10"] for record in by_model.values())


def test_popularity_row_is_the_popularity_of_training(by_model, output):
    training = {}
    sequences = {}
    for user, item, _ in sorted(INTERACTIONS, key=lambda row: row[2]):
        sequences.setdefault(user, []).append(item)
    for items in sequences.values():
        for item in items[:-2]:
            training[item] = training.get(item, 0) + 1
    for row in per_user(output, by_model["Pop"]).itertuples():
        counts = [training.get(item, 0) for item in row.topk]
        assert counts == sorted(counts, reverse=True)
        rest = set(training) - set(sequences[row.user][:-1]) - set(row.topk)
        assert max(training[item] for item in rest) <= counts[-1]


def test_config_of_a_run_can_be_run_again(by_model, output, data, tmp_path):
    """``config.yaml`` through --config_files gives the same configuration and the same numbers."""
    for model in ("SASRec", "Pop"):
        config = output / "runs" / by_model[model]["run_id"] / "config.yaml"
        assert isinstance(yaml.safe_load(config.read_text("utf-8")), dict)
        code = main(["run", f"--model={model}", f"--dataset={NAME}", f"--config_files={config}",
                     f"--data_path={data.parent}", f"--output_dir={tmp_path / model}"])
        assert code == 0
        again, = records(tmp_path / model)
        for key in ("config_hash", "split_fingerprint", "hit@10", "ndcg@10", "ndcg@10_unmasked"):
            assert again[key] == by_model[model][key], (model, key)


def test_unmasked_policy_is_recorded_and_changes_the_lists(data, tmp_path):
    assert main(["run", "--model=Pop", f"--dataset={NAME}", f"--config_files={data}", "--mask_history=false",
                 f"--output_dir={tmp_path}"]) == 0
    record, = records(tmp_path)
    assert record["mask_history"] is False
    for k in (1, 5, 10):
        assert record[f"hit@{k}"] == pytest.approx(record[f"hit@{k}_unmasked"], abs=1e-9)
    earlier = {(user, item) for user, item, _ in INTERACTIONS}
    table = per_user(tmp_path, record)
    assert any((row.user, item) in earlier for row in table.itertuples() for item in set(row.topk) - {row.target})


def test_id_adjacency_finds_targets_planted_by_first_appearance(tmp_path):
    """Grouped by user and numbered as they appear, new items give themselves away."""
    rows = []
    for user in range(20):
        rows += [(f"u{user}", "common" if place == 0 else f"{user}-{place}", float(place)) for place in range(5)]
    data = write_dataset(tmp_path, rows)
    arguments = ["run", "--model=IDAdjacency,Pop", f"--dataset={NAME}", f"--config_files={data}"]
    assert main([*arguments, f"--output_dir={tmp_path / 'grouped'}"]) == 0
    found = {record["model"]: record for record in records(tmp_path / "grouped")}
    assert found["IDAdjacency"]["hit@1"] == 1.0
    assert found["Pop"]["hit@10"] == 0.0  # nobody else has the targets; ties are no hits


@pytest.mark.parametrize("model", ["SASRec", "GenRec", "RecSysLLM"])
def test_sampled_evaluation_ranks_the_target_among_its_candidates(model, data, tmp_path):
    """``predict`` scores given candidates; ranks go from 1 to the number of candidates."""
    assert main(["run", f"--model={model}", f"--dataset={NAME}", f"--config_files={data}", "--eval_args={mode: uni9}",
                 "--epochs=1", f"--output_dir={tmp_path}"]) == 0
    record, = records(tmp_path)
    table = per_user(tmp_path, record)
    assert len(table) == 45 and table["rank"].between(1, 10).all()
    assert 0.1 < record["hit@5"] <= 1 and record["hit@10"] == 1


def test_bpr_draws_negatives_and_can_be_run_again(data, tmp_path):
    assert main(["run", "--model=GRU4Rec", f"--dataset={NAME}", f"--config_files={data}", "--loss_type=BPR",
                 "--epochs=1", f"--output_dir={tmp_path / 'first'}"]) == 0
    first, = records(tmp_path / "first")
    config = tmp_path / "first" / "runs" / first["run_id"] / "config.yaml"
    assert main(["run", "--model=GRU4Rec", f"--dataset={NAME}", f"--config_files={config}",
                 f"--data_path={data.parent}", f"--output_dir={tmp_path / 'again'}"]) == 0
    again, = records(tmp_path / "again")
    assert again["ndcg@10"] == first["ndcg@10"]


def test_a_data_set_that_is_too_small_stops_no_other(data, tmp_path, capsys):
    write_dataset(data.parent, [("u", "a", 1.0), ("u", "b", 2.0)], name="small")
    assert main(["run", "--model=Pop", f"--dataset=small,{NAME}", f"--config_files={data}",
                 f"--output_dir={tmp_path}"]) == 2
    assert [record["dataset"] for record in records(tmp_path)] == [NAME]
    assert "small" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- GenRec

FEW = random_interactions(users=10, items=15, longest=6)

@pytest.fixture(scope="module")
def genrec_runs(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """One tiny training for each way to decode; the same seed."""
    data = write_dataset(tmp_path_factory.mktemp("data"), FEW, topk=[1, 5], valid_metric="NDCG@5")
    runs = {}
    for decode in ("beam", "exact_topk", "exact_all"):
        folder = tmp_path_factory.mktemp(decode)
        code = main(["run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={data}", "--epochs=1",
                     "--llm=tiny-llama", "--precision=fp32", "--num_beams=15", "--validity_users=2",
                     f"--decode={decode}", f"--output_dir={folder}"])
        assert code == 0
        runs[decode] = folder, records(folder)[0]
    return runs


def test_genrec_record_says_what_was_measured(genrec_runs):
    for decode, (_, record) in genrec_runs.items():
        assert record["status"] == "ok" and record["decode"] == decode
        assert record["exact_share"] == 1  # 15 beams hold all 15 items
        assert 0 <= record["valid_rate"] <= 1 and 0 <= record["duplicate_rate"] <= 1
        assert record["prompt_fingerprint"] and record["trie_fingerprint"] and record["backbone"]
        assert record["trainable_parameters"] == record["total_parameters"] > 0
        assert np.isfinite(record["curve"][0]["loss"])
    assert len({record["trie_fingerprint"] for _, record in genrec_runs.values()}) == 1


def test_genrec_lists_hold_distinct_items_outside_the_history(genrec_runs):
    taken = {}
    for user, item, _ in FEW:
        taken.setdefault(user, set()).add(item)
    for folder, record in genrec_runs.values():
        for row in per_user(folder, record).itertuples():
            assert len(set(row.topk)) == len(row.topk) == 5
            assert not set(row.topk) & (taken[row.user] - {row.target})


@pytest.mark.parametrize("decode", ["beam", "exact_topk"])
def test_genrec_search_of_the_whole_catalogue_ranks_like_scoring_it(genrec_runs, decode):
    """Same seed, same weights; 15 beams hold all 15 items."""
    found, exact = (per_user(*genrec_runs[name]) for name in (decode, "exact_all"))
    assert (found["target"] == exact["target"]).all()
    assert [list(items) for items in found["topk"]] == [list(items) for items in exact["topk"]]
    for metric in ("hit@5", "ndcg@5", "ndcg@5_unmasked"):
        assert genrec_runs[decode][1][metric] == genrec_runs["exact_all"][1][metric]
