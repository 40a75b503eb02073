"""What goes wrong in the middle of a run ends in one line, a record with the reason, and no damaged file."""

from __future__ import annotations

import csv
import errno
import json
import subprocess
from pathlib import Path

import pytest
import torch
from data_helpers import NAME, random_interactions, records, write_dataset

from recbole_genrec.cli import main
from recbole_genrec.model.registry import get_model
from recbole_genrec.running import failures
from recbole_genrec.trainer import GenRecTrainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(60, 40, 6, 10))


def _run(dataset: Path, output: Path, *options: str, model: str = "SASRec") -> int:
    return main(["run", f"--model={model}", f"--dataset={NAME}", f"--config_files={dataset}",
                 f"--output_dir={output}", "--gpu_id=", "--train_batch_size=32", "--epochs=2", *options])


def _failed(output: Path) -> str:
    """The reason in the one record, which is also in the leaderboard."""
    record, = records(output)
    row, = csv.DictReader((output / "leaderboard.csv").open())
    assert record["status"] == row["status"] == "failed" and record["reason"] == row["reason"]
    assert "\n" not in record["reason"]
    return record["reason"]


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoilt(dataset, tmp_path, monkeypatch, caplog):
    model, calls = get_model("SASRec"), []
    original = model.calculate_loss

    def calculate_loss(self, interaction):
        calls.append(1)
        return original(self, interaction) * (float("nan") if len(calls) == 12 else 1)

    monkeypatch.setattr(model, "calculate_loss", calculate_loss)
    spoilt = []
    monkeypatch.setattr(GenRecTrainer, "_step", lambda self, *rest, step=GenRecTrainer._step: (
        step(self, *rest), spoilt.extend(weight for weight in self.model.parameters() if weight.isnan().any())))
    assert _run(dataset, tmp_path, "--learning_rate=0.125") == 1
    reason = _failed(tmp_path)
    assert reason.startswith("the loss became nan in epoch 1, batch 2 of 10") and "learning_rate (0.125)" in reason
    assert not spoilt and "failed: the loss became nan" in caplog.text


def test_a_real_divergence_is_named(dataset, tmp_path):
    assert _run(dataset, tmp_path, "--learning_rate=1e38", "--learner=sgd", model="GRU4Rec") == 1
    assert "lower learning_rate" in _failed(tmp_path)


def test_memory_that_runs_out_is_named_with_what_to_do(dataset, tmp_path, capsys):
    assert _run(dataset, tmp_path, f"--hidden_size={2 ** 40}") == 1  # a real allocation
    assert _failed(tmp_path).startswith("out of memory") and "lower train_batch_size" in _failed(tmp_path)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("error, said", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory (CUDA"),
    (MemoryError(), "out of memory (no more was said)"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "the disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
    (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    (ValueError("one\ntwo"), "ValueError: one two"), (KeyError("x" * 2000), "KeyError: 'xxx")])
def test_a_reason_is_one_short_line(error, said):
    reason = failures.reason(error)
    assert reason.startswith(said) and "\n" not in reason and len(reason) <= 500


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_whole_files_and_the_run_goes_on_when_there_is_room(small_disk, dataset, tmp_path, capsys):
    options = ["--hidden_size=128", "--inner_size=256", "--validity_users=0"]
    assert _run(dataset, small_disk, *options) == 1
    for path in small_disk.rglob("*.json"):
        json.loads(path.read_text("utf-8"))
    assert not [*small_disk.rglob("*.tmp"), *small_disk.glob("runs/*/checkpoints/*.new")]
    if found := records(small_disk):
        assert found[0]["status"] == "failed" and "the disk is full" in found[0]["reason"]
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert _run(dataset, small_disk, *options) == 0
    assert _run(dataset, tmp_path / "roomy", *options) == 0
    (found,), (whole,) = records(small_disk), records(tmp_path / "roomy")
    assert found["status"] == "ok" and found["ndcg@10"] == whole["ndcg@10"]


def test_a_read_only_disk_is_refused_before_anything_is_trained(small_disk, dataset, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert _run(dataset, small_disk / "out") == 2
    line, = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: output folder") and "Read-only" in line
