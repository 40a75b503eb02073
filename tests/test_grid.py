"""The runs of one call, spread over workers."""

from __future__ import annotations

import csv
import sys

import pytest
from data_helpers import random_interactions, records, write_dataset

from recbole_genrec.cli import main
from recbole_genrec.commands.grid import Worker


@pytest.fixture
def call(tmp_path):
    data = write_dataset(tmp_path, random_interactions(40, 30, 5, 9))
    return ["grid", "--dataset=tiny", f"--config_files={data}", "--gpu_id=", f"--output_dir={tmp_path / 'out'}"]


@pytest.mark.slow
def test_workers_share_the_runs_and_leave_one_leaderboard(call, tmp_path, capfd):
    pytest.importorskip("submitit")
    assert main([*call, "--model=SASRec,Pop", "--seed=1,2", "--epochs=1", "--workers=2"]) == 0
    assert "4 runs, 2 jobs" in capfd.readouterr().out
    assert sorted((record["model"], record["seed"]) for record in records(tmp_path / "out")) == [
        ("Pop", 1), ("Pop", 2), ("SASRec", 1), ("SASRec", 2)]
    rows = list(csv.DictReader((tmp_path / "out" / "leaderboard.csv").open()))
    assert len(rows) == 4 and {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize("wrong, said", [
    (["--model=SASRec", "--epoch=1"], "did you mean 'epochs'?"), (["--model=SASRek"], "did you mean 'SASRec'?"),
    (["--model=Pop", "--workers=0"], "--workers=0"), (["--model=Pop", "--force"], "force=true"),
    (["--model=Pop", "--job_options=none.yaml"], "none.yaml"), ([], "--model")])
def test_a_mistake_shows_before_anything_waits_in_a_queue(wrong, said, call, capsys, tmp_path):
    pytest.importorskip("submitit")
    assert main([*call, *wrong]) == 2
    line, = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "out" / "jobs").exists()


@pytest.mark.parametrize("command, code", [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_a_worker_that_is_killed_has_not_ended_well(command, code):
    assert Worker(["sh", "-c", command])() == code


def test_without_submitit_one_line_says_what_is_needed(call, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main([*call, "--model=Pop"]) == 2
    assert "pip install submitit" in capsys.readouterr().err
