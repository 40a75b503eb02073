"""A search: as many trials for every model, no test user looked at, settings that `run` takes back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from data_helpers import NAME, random_interactions, records, write_dataset

from recbole_genrec import tuning
from recbole_genrec.benchmark import GenRecTrainer
from recbole_genrec.cli import main
from recbole_genrec.config import Config
from recbole_genrec.errors import UserError
from recbole_genrec.settings import property_names
from recbole_genrec.validation import known_keys

SMALL = ["--epochs=1", "--hidden_size=16", "--inner_size=16", "--eval_step=1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(40, 30, 6, 12))


@pytest.fixture
def space(tmp_path) -> Path:
    (tmp_path / "space.yaml").write_text("learning_rate: [0.001, 0.01, 0.1]\nn_layers: [1, 2]\nhidden_size: [8]\n")
    return tmp_path / "space.yaml"


@pytest.mark.parametrize("model", property_names("search"))
def test_every_shipped_space_is_of_its_model_and_every_value_is_valid(model):
    space = tuning.read_space(model, known_keys(model, "ml-100k"))
    for key, values in space.items():
        for value in values:
            assert Config(model, "ml-100k", config_dict={key: value})[key] == value


def test_no_trial_looks_at_the_test_and_the_best_is_taken_back(dataset, space, tmp_path, monkeypatch, capsys):
    def looked(*_, **__):
        raise AssertionError("a trial looked at the test users")

    monkeypatch.setattr(GenRecTrainer, "test", looked)
    call = ["tune", "--model=SASRecPlus", f"--dataset={NAME}", f"--config_files={dataset}", f"--search={space}",
            "--trials=3", f"--output_dir={tmp_path}/out", *SMALL]
    assert main(call) == 0
    folder = tmp_path / "out" / "tuning"
    assert "trial" in capsys.readouterr().out
    with open(folder / f"SASRecPlus-{NAME}.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert len({(row["learning_rate"], row["n_layers"]) for row in rows}) == 3
    trials = {record["run_id"]: record for record in records(folder)}
    assert all(trials[row["run_id"]]["valid"]["ndcg@10"] == float(row["valid ndcg@10"]) for row in rows)
    assert all(trial["tested"] is False and "ndcg@10" not in trial for trial in trials.values())
    best = max(rows, key=lambda row: float(row["valid ndcg@10"]))
    settings = yaml.safe_load((folder / f"SASRecPlus-{NAME}.yaml").read_text())
    assert settings.get("learning_rate", 0.001) == float(best["learning_rate"]) and settings["epochs"] == 1
    assert settings.get("n_layers", 2) == int(best["n_layers"])

    # What is done is not trained again, and the trial is no run that was tested.
    assert main(call) == 0 and len(records(folder)) == 3
    monkeypatch.undo()
    assert main(["run", "--model=SASRecPlus", f"--dataset={NAME}", f"--output_dir={tmp_path}/out",
                 f"--config_files={dataset} {folder}/SASRecPlus-{NAME}.yaml"]) == 0
    record, = records(tmp_path / "out")
    assert record["config_hash"] == trials[best["run_id"]]["config_hash"]
    assert record["ndcg@10"] is not None and record["valid"]["ndcg@10"] == float(best["valid ndcg@10"])


def test_what_is_given_is_not_searched_and_draws_are_those_of_the_seed(dataset, space):
    def planned(**given):
        return tuning.plan_searches(["SASRecPlus"], [NAME], 4, [str(dataset)], given, str(space))[0].changes

    assert planned() == planned() and planned()[0] == {}
    assert planned(seed=1) != planned(seed=2)
    assert all(change["learning_rate"] != 0.001 or change["n_layers"] != 2 for change in planned(hidden_size=8)[1:])
    assert all(change.keys() == {"learning_rate", "n_layers"} for change in planned(hidden_size=8)[1:])
    assert len(planned(learning_rate=0.01, hidden_size=8)) == 2


@pytest.mark.parametrize("text, said", [
    ("learning_rate: 0.1\n", "must be a list of values"), ("learning_rte: [0.1]\n", "did you mean 'learning_rate'?"),
    ("learning_rate: []\n", "must be a list of values"), ("learning_rate: [-1]\n", "learning_rate=-1"),
])
def test_a_space_that_cannot_be_is_one_line(dataset, tmp_path, capsys, text, said):
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["tune", "--model=SASRecPlus", f"--dataset={NAME}", f"--config_files={dataset}",
                 f"--search={tmp_path}/bad.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_a_model_without_a_space_says_where_to_give_one(dataset):
    with pytest.raises(UserError, match="unknown search 'FPMC'.*or give a YAML file"):
        tuning.plan_searches(["FPMC"], [NAME], 2, [str(dataset)], {})
    with pytest.raises(UserError, match="--trials=0"):
        tuning.plan_searches(["SASRecPlus"], [NAME], 0, [str(dataset)], {})


@pytest.mark.parametrize("model, given", [("Pop", {}), ("SASRecPlus", {"eval_step": 0})])
def test_what_is_never_validated_cannot_be_searched(dataset, space, model, given):
    with pytest.raises(UserError, match=f"{model} with eval_step=.* is never validated"):
        tuning.plan_searches([model], [NAME], 2, [str(dataset)], given, str(space))


def test_a_key_that_one_of_the_models_reads_is_given_to_that_one(dataset, space):
    first, second = tuning.plan_searches(["SASRecPlus", "GRU4Rec"], [NAME], 1, [str(dataset)],
                                         {"num_layers": 2, "attn_dropout_prob": 0.3})
    assert "num_layers" not in first.given and second.given["num_layers"] == 2
    assert first.configs[0]["attn_dropout_prob"] == 0.3 and "attn_dropout_prob" not in second.given


@pytest.mark.parametrize("model, settings, epochs", [
    ("SASRec", {}, 7), ("GenRec", {}, None), ("GenRec", {"lr_scheduler_type": "constant"}, 7),
    ("GenRecT5", {"lr_scheduler_type": "constant", "train_stage": "both"}, None), ("S3Rec", {}, None)])
def test_minutes_become_epochs_where_those_are_the_same_training(model, settings, epochs):
    config = Config(model, "ml-100k", config_dict=settings)
    assert tuning.epochs_for_minutes(config, {"epochs_done": 7}) == epochs


def test_the_least_is_best_where_less_is_better(dataset, space, tmp_path):
    assert main(["tune", "--model=SASRecPlus", f"--dataset={NAME}", f"--config_files={dataset}", f"--search={space}",
                 "--trials=3", f"--output_dir={tmp_path}", "--metrics=[Hit,NDCG,GiniIndex]",
                 "--valid_metric=GiniIndex@10", *SMALL]) == 0
    with open(tmp_path / "tuning" / f"SASRecPlus-{NAME}.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["valid giniindex@10"]))
    assert f"Run {best['run_id']}," in (tmp_path / "tuning" / f"SASRecPlus-{NAME}.yaml").read_text()
    assert len({row["valid giniindex@10"] for row in rows}) > 1


def test_the_settings_of_a_timed_search_hold_on_any_machine(dataset, space, tmp_path):
    assert main(["tune", "--model=SASRecPlus", f"--dataset={NAME}", f"--config_files={dataset}", "--trials=1",
                 f"--search={space}", f"--output_dir={tmp_path}", "--max_train_minutes=0.0001", "--eval_step=1"]) == 0
    settings = yaml.safe_load((tmp_path / "tuning" / f"SASRecPlus-{NAME}.yaml").read_text())
    assert settings["epochs"] == 1 and settings["settings_label"] == "tuned" and "max_train_minutes" not in settings
