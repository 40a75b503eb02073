"""The command line as a user meets it: in a process of its own, from an empty folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def call(tmp_path):
    def call(*arguments: str, program=(REPOSITORY / "run_benchmark.py",)) -> subprocess.CompletedProcess:
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        return subprocess.run([sys.executable, *program, *arguments], cwd=tmp_path, text=True, capture_output=True,
                              env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}, timeout=600)
    return call


def test_help_has_examples(call, tmp_path):
    done = call("--help")
    assert done.returncode == 0 and done.stderr == ""
    for said in ("usage: run_benchmark.py", "--model", "--dataset", "--seed", "--llm", "--config_files", "--output_dir",
                 "--data_path", "examples:", "run_benchmark.py --model=GenRec --dataset=ml-100k", "--key=value"):
        assert said in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_whoever_reads_may_stop_reading(tmp_path):
    """``recbole-genrec audit --published | head -1`` complains of nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "recbole_genrec", "audit", "--published"], stdout=writing, text=True,
                          stderr=subprocess.PIPE, cwd=tmp_path, timeout=300,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY),
                                                                            os.environ.get("PYTHONPATH", "")])})
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_a_real_run_from_an_empty_folder(call, tmp_path):
    done = call("--model=Pop", "--dataset=ml-100k", "--seed=1")
    assert done.returncode == 0, done.stderr
    assert "Pop" in done.stdout and "leaderboard.csv" in done.stdout and "Traceback" not in done.stderr
    # no log/, log_tensorboard/ or saved/
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    with open(tmp_path / "results" / "leaderboard.csv", newline="") as file:
        row, = csv.DictReader(file)
    assert (row["model"], row["dataset"], row["seed"], row["status"]) == ("Pop", "ml-100k", "1", "ok")
    assert int(row["users"]) == 943 and 0 < float(row["ndcg@10"]) < float(row["hit@10"]) < float(row["hit@20"]) < 1
    run = tmp_path / "results" / "runs" / row["run_id"]
    assert {path.name for path in run.iterdir()} == {"record.json", "per_user.parquet", "config.yaml"}
    record = json.loads((run / "record.json").read_text("utf-8"))
    assert f"{record['hit@10']}" == row["hit@10"] and record["mask_history"] is True


def test_a_mistake_is_one_line_and_leaves_nothing(call, tmp_path):
    done = call("--model=GenRek", "--dataset=ml-100k")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown model 'GenRek'; did you mean 'GenRec'?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_argument_is_one_line_too(call):
    done = call("--model=Pop")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--dataset" in done.stderr


def test_the_package_answers_for_its_version(call):
    done = call("--version", program=("-c", "import sys; from recbole_genrec.cli import main; sys.exit(main())"))
    from recbole_genrec import __version__

    assert done.returncode == 0 and done.stdout.strip() == __version__
