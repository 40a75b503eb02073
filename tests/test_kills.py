"""Runs that are killed again and again, and many at once: nothing is lost, torn or done twice."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from pathlib import Path

import children
import pandas as pd
import pytest
from data_helpers import random_interactions, records, wait_for, write_dataset
from safetensors.torch import load_file

from recbole_genrec.running import runs

KILLS = 24
OPTIONS = {
    "SASRec": ["--epochs=6", "--hidden_dropout_prob=0.5"],
    "GenRec": ["--epochs=2", "--precision=fp32", "--decode=beam", "--num_beams=20", "--gradient_accumulation_steps=2",
               "--eval_step=1", "--validity_users=8"],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(120, 60, 6, 12))


def _arguments(model: str, dataset: Path, output: Path, *more: str) -> list[str]:
    return ["run", f"--model={model}", "--dataset=tiny", f"--config_files={dataset}", f"--output_dir={output}",
            "--gpu_id=", "--topk=[5,10,20]", "--train_batch_size=32", "--eval_batch_size=32",
            *OPTIONS.get(model, []), *more]


def _result(output: Path) -> tuple:
    record, = records(output)
    folder = output / "runs" / record["run_id"]
    numbers = {key: value for key, value in record.items() if "@" in key} | {"losses": [
        (point["loss"], point.get("valid")) for point in record["curve"]]}
    weights = load_file(folder / "model" / "model.safetensors")
    return (record["status"], json.dumps(numbers), pd.read_parquet(folder / "per_user.parquet").to_json(),
            {name: tensor.numpy().tobytes() for name, tensor in weights.items()})


def _nothing_is_torn(output: Path) -> None:
    for path in output.rglob("*.json"):
        if not path.parent.name.endswith(".new"):
            json.loads(path.read_text("utf-8"))
    if (board := output / "leaderboard.csv").exists():
        assert all(None not in row.values() and None not in row for row in csv.DictReader(board.open()))


@pytest.mark.slow
@pytest.mark.parametrize("model", OPTIONS)
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(model, dataset, tmp_path, capsys):
    began = time.monotonic()
    assert children.finish(children.start(_arguments(model, dataset, tmp_path / "calm"), tmp_path / "log")) == 0
    whole = time.monotonic() - began
    dice, killed, ended = random.Random(model), 0, 0
    while killed < KILLS:  # a run that ended is thrown away, and another one is killed
        output = tmp_path / f"hunted{ended}"
        while True:
            # Often late, so that tests, checkpoints and the leaderboard are hit too, not just the beginning.
            process = children.start(_arguments(model, dataset, output, "--checkpoint_minutes=0.00001"),
                                     tmp_path / "log")
            process.join(whole * dice.uniform(0.05, 0.9))
            if process.is_alive():
                process.kill()
                killed += 1
            code = children.finish(process)
            _nothing_is_torn(output)
            if code != -signal.SIGKILL:
                break
        assert code == 0, (tmp_path / "log").read_text()[-2000:]
        assert _result(output) == _result(tmp_path / "calm")
        rows = list(csv.DictReader((output / "leaderboard.csv").open()))
        assert [row["status"] for row in rows] == ["ok"]
        ended += 1
    with capsys.disabled():
        print(f"\n{model}: {killed} kills survived, {ended} runs ended as the one that nobody killed")


@pytest.mark.parametrize("number, code, reason", [
    (signal.SIGTERM, 143, "terminated (SIGTERM)"), (signal.SIGINT, 130, "interrupted from the keyboard")])
def test_a_signal_ends_a_run_within_seconds_and_it_goes_on_later(number, code, reason, dataset, tmp_path):
    arguments = _arguments("SASRec", dataset, tmp_path / "out", "--epochs=2000", "--stopping_step=10000")
    process = children.start(arguments, tmp_path / "log")
    wait_for(lambda: list(tmp_path.glob("out/runs/*/checkpoints/*/state.json")))
    asked = time.monotonic()
    os.kill(process.pid, number)
    assert children.finish(process) == code and time.monotonic() - asked < 20
    record, = records(tmp_path / "out")
    assert record["status"] == "interrupted" and record["reason"] == reason
    assert "goes on from the last checkpoint" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert [row["status"] for row in csv.DictReader((tmp_path / "out/leaderboard.csv").open())] == ["interrupted"]


@pytest.mark.slow
def test_twenty_runs_at_once_leave_twenty_rows(dataset, tmp_path):
    output = tmp_path / "out"
    processes = [children.start(_arguments("SASRec", dataset, output, "--epochs=1", f"--seed={seed}"),
                                tmp_path / f"log{seed}") for seed in range(20)]
    assert [children.finish(process, 600) for process in processes] == [0] * 20
    rows = list(csv.DictReader((output / "leaderboard.csv").open()))
    assert sorted(int(row["seed"]) for row in rows) == list(range(20)) and {row["status"] for row in rows} == {"ok"}
    assert not [path for path in output.rglob("*") if path.name.endswith((".tmp", ".new", ".bak"))]
    _nothing_is_torn(output)


def test_four_processes_with_one_call_train_each_run_once(dataset, tmp_path):
    """So a grid may be spread over machines: each takes what is left, and waits for what others are at."""
    output = tmp_path / "out"
    calls = [_arguments("SASRec,Pop", dataset, output, "--epochs=1", "--seed=1,2") for _ in range(4)]
    processes = [children.start(call, tmp_path / f"log{number}") for number, call in enumerate(calls)]
    assert [children.finish(process) for process in processes] == [0] * 4
    assert len(records(output)) == 4
    assert all((tmp_path / f"log{number}").read_text().count(" ok ") == 4 for number in range(4))
    with runs.FileLock(str(output / "runs" / ".lock"), timeout=1):
        pass
