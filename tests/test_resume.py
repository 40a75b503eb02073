"""A run that was broken off anywhere goes on, and ends with the very numbers of one that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from data_helpers import config_of, random_interactions, records, write_dataset
from safetensors.torch import load_file

from recbole_genrec.benchmark import run
from recbole_genrec.running import runs
from recbole_genrec.running.checkpoint import Checkpoints
from recbole_genrec.running.weights import put_back, put_in_place
from recbole_genrec.settings import property_file
from recbole_genrec.trainer import GenRecTrainer

SMALL = {"gpu_id": "", "epochs": 3, "train_batch_size": 32, "eval_batch_size": 16, "test_unmasked": False,
         "validity_users": 4, "show_progress": False, "eval_step": 1}
GENERATIVE = {"precision": "fp32", "num_beams": 10, "decode": "beam", "train_batch_size": 16}
MODELS = {
    "SASRec": {"hidden_dropout_prob": 0.5, "stopping_step": 1},
    "GRU4Rec": {"loss_type": "BPR", "ema_decay": 0.9},
    "BERT4Rec": {},
    "S3Rec": {"pretrain_epochs": 2, "item_attribute": "class"},
    "GenRec": {**GENERATIVE, "gradient_accumulation_steps": 2, "item_prior": 1.0, "item_reader": "tiny-llama",
               "members": 2, "item_dropout": 0.1, "label_smoothing": 0.1},
    "GenRecT5": {**GENERATIVE, "train_stage": "both", "pretrain_epochs": 2, "target_stride": 2},
    "RecSysLLM": {**GENERATIVE, "target_stride": 2},
}


class Killed(BaseException):
    """What a test does to a run; like SIGKILL, nothing in the package handles it."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(40, 30, 5, 9))


@pytest.fixture(scope="module", params=MODELS)
def case(request, dataset, tmp_path_factory):
    """A model's settings, and the run that nobody disturbed."""
    torch.set_num_threads(1)  # as in the tests themselves: more of them round otherwise
    settings = {**SMALL, **MODELS[request.param]}
    output = tmp_path_factory.mktemp("whole")
    return request.param, settings, run(config_of(dataset, request.param, **settings), _folder(output)), output


def _folder(output: Path) -> Path:
    (output / "runs").mkdir(parents=True, exist_ok=True)
    return output


def _result(output: Path, record: dict) -> tuple:
    """All that a run measured, and the weights that it left."""
    numbers = {key: value for key, value in record.items() if "@" in key or key in (
        "valid", "epochs_done", "valid_rate", "index_leak", "trie_fingerprint", "flops_per_target")}
    losses = [(point["epoch"], point["loss"], point.get("valid"), point.get("stage")) for point in record["curve"]]
    folder = output / "runs" / record["run_id"]
    table = pd.read_parquet(folder / "per_user.parquet")
    return json.dumps([numbers, losses], sort_keys=True), table.to_json(), load_file(folder / "model/model.safetensors")


def _same(one: tuple, other: tuple) -> None:
    assert one[0] == other[0] and one[1] == other[1]
    assert one[2].keys() == other[2].keys()
    assert all(torch.equal(one[2][name], other[2][name]) for name in one[2])


def _break_off(monkeypatch, name: str, call: int) -> None:
    """Let the trainer be killed when a method is called for the so-and-so-many-th time."""
    original, calls = getattr(GenRecTrainer, name), []

    def killed(self, *arguments, **settings):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(self, *arguments, **settings)

    monkeypatch.setattr(GenRecTrainer, name, killed)


def _killed_before_the_test(dataset, output: Path, monkeypatch, config: dict) -> None:
    """A run of SASRec that has trained and kept its best model, and is broken off."""
    with monkeypatch.context() as patch:
        _break_off(patch, "test", 1)
        with pytest.raises(Killed):
            run(config_of(dataset, "SASRec", **config), _folder(output))


@pytest.mark.parametrize("where, call, minutes", [
    ("_step", 2, 1e-9), ("_step", 4, 1e-9), ("_step", 2, None), ("_valid_epoch", 2, None),
    ("_save_checkpoint", 1, 1e-9), ("test", 1, None), ("keep", 3, 1e-9)])
def test_a_run_that_was_killed_ends_with_the_same_numbers(case, dataset, tmp_path, monkeypatch, where, call, minutes):
    model, settings, whole, output = case
    config = {**settings, "checkpoint_minutes": minutes}
    with monkeypatch.context() as patch:
        _break_off(patch, where, call)
        with pytest.raises(Killed):
            run(config_of(dataset, model, **config), _folder(tmp_path))
    assert not records(tmp_path)
    record = run(config_of(dataset, model, **config), tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 2  # the run's folder, and the lock
    assert record["restarts"] == (0 if (where, call, minutes) == ("_step", 2, None) else 1)
    _same(_result(tmp_path, record), _result(output, whole))
    assert not (tmp_path / "runs" / record["run_id"] / "checkpoints").exists()


def test_a_run_that_is_done_is_not_trained_again(dataset, tmp_path, monkeypatch):
    config = {**SMALL, **MODELS["SASRec"], "epochs": 1}
    first = run(config_of(dataset, "SASRec", **config), _folder(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(GenRecTrainer, "fit", None)
        assert run(config_of(dataset, "SASRec", **config), tmp_path) == json.loads(json.dumps(first))
    again = run(config_of(dataset, "SASRec", **config, force=True), tmp_path)
    other = run(config_of(dataset, "SASRec", **{**config, "learning_rate": 0.01}), tmp_path)
    assert len({first["run_id"], again["run_id"], other["run_id"]}) == 3 and again["ndcg@10"] == first["ndcg@10"]
    shutil.rmtree(tmp_path / "runs" / again["run_id"])
    shutil.rmtree(tmp_path / "runs" / first["run_id"] / "model")  # not all there any more
    assert run(config_of(dataset, "SASRec", **config), tmp_path)["run_id"] not in (first["run_id"], again["run_id"])


def test_other_data_are_another_run(dataset, tmp_path):
    first = run(config_of(dataset, "Pop", **SMALL), _folder(tmp_path))
    moved = write_dataset(tmp_path, random_interactions(40, 30, 5, 9, seed=2))
    second = run(config_of(moved, "Pop", **SMALL), tmp_path)
    assert first["config_hash"] == second["config_hash"] and first["run_id"] != second["run_id"]


def test_other_classes_or_other_backbone_files_are_another_run(dataset, tmp_path):
    """Nothing in the settings says what is in these files."""
    shutil.copytree(dataset.parent, tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(property_file("prompt", "next_item").read_text("utf-8"), "utf-8")
    config = {**SMALL, **GENERATIVE, "epochs": 1, "data_path": str(tmp_path / "data"), "topk": [1, 5],
              "prompt": str(tmp_path / "mine.yaml"), "valid_metric": "NDCG@5", "num_beams": 5}
    item = tmp_path / "data" / "tiny" / "tiny.item"
    ids = [run(config_of(dataset, "GenRec", **config), _folder(tmp_path))["run_id"] for _ in range(2)]
    item.write_text(item.read_text("utf-8").replace("plain", "fancy"), "utf-8")
    ids.append(run(config_of(dataset, "GenRec", **config), tmp_path)["run_id"])
    with open(tmp_path / "mine.yaml", "a", encoding="utf-8") as file:
        file.write("# another\n")
    ids.append(run(config_of(dataset, "GenRec", **config), tmp_path)["run_id"])
    assert ids[0] == ids[1] and len(set(ids)) == 3


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda folder: (folder / "model.safetensors").write_bytes(b"")])
def test_a_best_model_that_is_lost_is_trained_again(dataset, tmp_path, monkeypatch, caplog, damage):
    config = {**SMALL, **MODELS["SASRec"], "epochs": 1}
    _killed_before_the_test(dataset, tmp_path, monkeypatch, config)
    model, = (tmp_path / "runs").glob("tiny-*/model")
    damage(model)
    record = run(config_of(dataset, "SASRec", **config), tmp_path)
    assert record["status"] == "ok" and "training begins anew" in caplog.text


def test_a_kill_between_the_two_renames_loses_no_model(tmp_path, monkeypatch):
    old, new = tmp_path / "model", tmp_path / "model.new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "which").write_text(folder.name)

    def killed(path, target):
        if path == new:
            raise Killed
        shutil.move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            put_in_place(new, old)
    assert not old.exists()
    put_back(old)
    assert (old / "which").read_text() == "model"
    put_in_place(new, old)
    put_back(old)
    assert (old / "which").read_text() == "model.new" and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_run_that_was_killed_between_the_two_renames_goes_on(dataset, tmp_path, monkeypatch, caplog):
    config = {**SMALL, **MODELS["SASRec"], "epochs": 1}
    _killed_before_the_test(dataset, tmp_path, monkeypatch, config)
    model, = (tmp_path / "runs").glob("tiny-*/model")
    model.rename(model.with_name("model.old"))
    record = run(config_of(dataset, "SASRec", **config), tmp_path)
    assert record["status"] == "ok" and record["restarts"] == 1 and "begins anew" not in caplog.text


def test_a_forced_run_that_was_broken_off_goes_on_too(dataset, tmp_path, monkeypatch):
    config = {**SMALL, **MODELS["SASRec"], "epochs": 1}
    first = run(config_of(dataset, "SASRec", **config), _folder(tmp_path))
    with monkeypatch.context() as patch:
        _break_off(patch, "test", 1)
        with pytest.raises(Killed):
            run(config_of(dataset, "SASRec", **config, force=True), tmp_path)
    again = run(config_of(dataset, "SASRec", **config, force=True), tmp_path)
    assert again["restarts"] == 1 and again["run_id"] != first["run_id"]
    assert len([*(tmp_path / "runs").glob("tiny-*")]) == 2


def test_resume_false_begins_anew(dataset, tmp_path, monkeypatch):
    config = {**SMALL, **MODELS["SASRec"], "epochs": 1}
    _killed_before_the_test(dataset, tmp_path, monkeypatch, config)
    record = run(config_of(dataset, "SASRec", **config, resume=False), tmp_path)
    assert record["restarts"] == 0 and len([*(tmp_path / "runs").glob("tiny-*")]) == 2


def test_a_torn_state_is_passed_over_for_the_one_before(dataset, tmp_path, monkeypatch, caplog):
    config = {**SMALL, **MODELS["SASRec"], "checkpoint_minutes": 1e-9}
    whole = run(config_of(dataset, "SASRec", **config), _folder(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        _break_off(patch, "_step", 8)
        with pytest.raises(Killed):
            run(config_of(dataset, "SASRec", **config), _folder(tmp_path))
    newest = max((tmp_path / "runs").glob("tiny-*/checkpoints/*"), key=lambda path: int(path.name))
    optimizer = newest / "optimizer.safetensors"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    record = run(config_of(dataset, "SASRec", **config), tmp_path)
    assert "cannot be read" in caplog.text and record["restarts"] == 1
    _same(_result(tmp_path, record), _result(tmp_path / "whole", whole))


def test_two_states_are_kept_and_a_failed_write_leaves_them(tmp_path, monkeypatch):
    states = Checkpoints(tmp_path / "states")
    assert states.read() is None
    for number in range(4):
        states.write({"weights": {"w": torch.full((3,), float(number))}}, {"number": number})
    assert len(list(states.folder.iterdir())) == 2
    tensors, state = states.read()
    assert state["number"] == 3 and tensors["weights"]["w"].tolist() == [3.0] * 3
    with monkeypatch.context() as patch:
        patch.setattr("recbole_genrec.files.os.fsync",
                      lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError):
            states.write({"weights": {"w": torch.zeros(3)}}, {"number": 4})
    assert len(list(states.folder.iterdir())) == 2 and states.read()[1]["number"] == 3


FACTS = {"dataset": "d", "model": "M", "seed": 1, "config_hash": "x", "version": "0"}


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path):
    with runs.taken(_folder(tmp_path), FACTS) as mine:
        with pytest.raises(runs.Busy), runs.taken(tmp_path, FACTS):
            pass
        with runs.taken(tmp_path, {**FACTS, "config_hash": "y"}) as other:
            assert other.folder != mine.folder
        with runs.taken(tmp_path, {**FACTS, "variant": "v"}) as variant:
            assert variant.folder not in (mine.folder, other.folder)
    with runs.taken(tmp_path, FACTS) as again:
        assert again.folder == mine.folder and again.begun["run_id"] == mine.folder.name
