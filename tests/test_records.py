"""Records and the leaderboard: derived, never torn, nothing of the user's ever lost."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_helpers import NAME, random_interactions, records, write_dataset

from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.files import flush, writable_folder, write_atomically
from recbole_genrec.records import read_records, update_leaderboard, write_record

#: DESIGN.md: every leaderboard has at least these.
FIXED = ("run_id timestamp dataset model backbone seed hit@5 ndcg@5 hit@10 ndcg@10 hit@20 ndcg@20 valid_rate "
         "duplicate_rate train_seconds eval_users_per_second peak_memory_mb trainable_parameters total_parameters "
         "dataset_fingerprint split_fingerprint config_hash version status").split()


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def add(folder: Path, run_id: str = "run-1", **facts) -> dict:
    (folder / "runs" / run_id).mkdir(parents=True)
    record = {"run_id": run_id, "timestamp": "2026-01-01T00:00:00Z", "model": "Pop", "status": "ok", **facts}
    write_record(folder / "runs" / run_id, record)
    return record


def kept(folder: Path) -> list[Path]:
    return list(folder.glob("leaderboard.*.bak"))


# ------------------------------------------------------------------------------------------------- leaderboard

def test_leaderboard_has_the_fixed_columns_in_order_and_the_records_oldest_first(tmp_path):
    add(tmp_path, "b", timestamp="2026-01-02T00:00:00Z", **{"hit@10": 0.25, "seed": 3})
    add(tmp_path, "a", timestamp="2026-01-03T00:00:00Z", backbone=None)
    path, warnings = update_leaderboard(tmp_path)
    assert path == tmp_path / "leaderboard.csv" and warnings == []
    rows = rows_of(path)
    assert list(rows[0])[:len(FIXED)] == FIXED
    assert [row["run_id"] for row in rows] == ["b", "a"]
    assert (rows[0]["hit@10"], rows[0]["seed"], rows[1]["hit@10"], rows[1]["backbone"]) == ("0.25", "3", "", "")


def test_leaderboard_of_no_record_is_a_header(tmp_path):
    path, _ = update_leaderboard(tmp_path)
    assert rows_of(path) == [] and path.read_text().startswith("run_id,")


def test_updating_twice_changes_nothing_and_keeps_nothing_aside(tmp_path):
    add(tmp_path)
    before = update_leaderboard(tmp_path)[0].read_bytes()
    path, warnings = update_leaderboard(tmp_path)
    assert path.read_bytes() == before and warnings == [] and kept(tmp_path) == []


HEADER = ",".join(FIXED)


@pytest.mark.parametrize("content, why", [
    (bytes(range(256)) * 20, "cannot be read"),
    (b"", "not a leaderboard"),
    (b"name,score\nmine,1\n", "not a leaderboard"),
    (b"run_id,my_notes\nrun-1,precious\n", "my_notes"),
    (f"{HEADER}\nrun-1,2026-01-01T0".encode(), "torn"),
    (f"{HEADER}\nrun-1{',' * 40}\n".encode(), "torn"),
    (f"{HEADER}\nrun-0{',' * (len(FIXED) - 1)}\n".encode(), "run-0"),
    (f'{HEADER}\n"run-1'.encode(), "cannot be read"),
], ids=["binary", "empty", "other table", "own column", "torn line", "long line", "row without record", "open quote"])
def test_a_leaderboard_that_is_not_ours_is_kept_aside(tmp_path, content, why):
    add(tmp_path)
    (tmp_path / "leaderboard.csv").write_bytes(content)
    path, warnings = update_leaderboard(tmp_path)
    backup, = kept(tmp_path)
    assert backup.read_bytes() == content
    assert len(warnings) == 1 and why in warnings[0] and backup.name in warnings[0]
    assert [row["run_id"] for row in rows_of(path)] == ["run-1"]


def test_several_backups_in_one_second_are_all_kept(tmp_path):
    contents = [f"mine,{number}\n" for number in range(3)]
    for content in contents:
        (tmp_path / "leaderboard.csv").write_text(content)
        update_leaderboard(tmp_path)
    assert sorted(path.read_text() for path in kept(tmp_path)) == contents


@pytest.mark.parametrize("content", ["", "{", "[]", '"run_id"', "{}", '{"run_id": 5}', '{"run_id": ["a"]}', "\x00"])
def test_a_broken_record_is_named_and_left_out(tmp_path, content):
    add(tmp_path, "good")
    (tmp_path / "runs" / "bad").mkdir()
    broken = tmp_path / "runs" / "bad" / "record.json"
    broken.write_text(content)
    path, warnings = update_leaderboard(tmp_path)
    assert [row["run_id"] for row in rows_of(path)] == ["good"]
    assert len(warnings) == 1 and str(broken) in warnings[0]
    assert broken.read_text() == content
    assert read_records(tmp_path)[1] == [broken]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", "\r=1"])
def test_no_cell_is_run_as_a_formula(tmp_path, text):
    add(tmp_path, reason=text, **{"ndcg@10": -0.5})
    row, = rows_of(update_leaderboard(tmp_path)[0])
    assert row["reason"] == "'" + text.replace("\r", "\n")
    assert row["ndcg@10"] == "-0.5"  # a number stays one


def test_text_of_any_kind_survives_the_round_trip(tmp_path):
    reason = 'a "quoted", line\nand another; 😀 \udcff'
    add(tmp_path, reason=reason)
    assert read_records(tmp_path)[0][0]["reason"] == reason
    row, = rows_of(update_leaderboard(tmp_path)[0])
    assert row["reason"] == reason.replace("\udcff", "\\udcff")


UPDATES = """
import json, sys
from pathlib import Path
from recbole_genrec.records import update_leaderboard, write_record
folder, name = Path(sys.argv[1]), sys.argv[2]
for number in range(5):
    run = folder / "runs" / f"{name}-{number}"
    run.mkdir(parents=True)
    write_record(run, {"run_id": run.name, "timestamp": "t", "model": "Pop" * 500})
    print(json.dumps(update_leaderboard(folder)[1]))
"""


def test_eight_processes_at_once_lose_nothing(tmp_path):
    # The records module alone: RecBole's import would take far longer than the race.
    script = ("import sys, types; package = types.ModuleType('recbole_genrec'); "
              f"package.__path__ = [{str(Path(main.__code__.co_filename).parent)!r}]; "
              "sys.modules['recbole_genrec'] = package\n" + UPDATES)
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), f"p{number}"], text=True,
                                  stdout=subprocess.PIPE) for number in range(8)]
    while any(process.poll() is None for process in processes):
        if (tmp_path / "leaderboard.csv").exists():
            assert all(row["model"] == "Pop" * 500 for row in rows_of(tmp_path / "leaderboard.csv"))  # never torn
        time.sleep(0.005)
    for process in processes:
        warnings = [json.loads(line) for line in process.communicate()[0].splitlines()]
        assert process.returncode == 0 and warnings == [[]] * 5
    found = {row["run_id"] for row in rows_of(tmp_path / "leaderboard.csv")}
    assert found == {f"p{process}-{number}" for process in range(8) for number in range(5)}
    assert kept(tmp_path) == []


# ---------------------------------------------------------------------------------------------- writing at all

def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path):
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 5)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_its_file_system_cannot_sync_stops_nothing(tmp_path, monkeypatch, number):
    def refuse(handle):
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    with contextlib.nullcontext() if number == errno.EINVAL else pytest.raises(OSError, match="refused"):
        flush(tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below", "\x00", "n" * 300])
def test_output_folder_that_cannot_be_is_a_users_mistake(tmp_path, place):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(UserError, match="cannot be written"):
        writable_folder(tmp_path / place)
    assert (tmp_path / "file").read_text() == "here already"


def test_output_dir_that_is_a_file_stops_the_call_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "results").write_text("mine")
    assert main(["run", "--model=Pop", "--dataset=ml-100k", f"--output_dir={tmp_path / 'results'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "results").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ runs that end

@pytest.fixture
def call(tmp_path) -> list[str]:
    """All of a call on a tiny data set but the models."""
    data = write_dataset(tmp_path, random_interactions(users=12))
    return ["run", f"--dataset={NAME}", f"--config_files={data}", "--epochs=1", f"--output_dir={tmp_path / 'out'}"]


@pytest.fixture
def break_gru(monkeypatch):
    """Lets GRU4Rec's loss raise."""
    from recbole.model.sequential_recommender.gru4rec import GRU4Rec

    def breaks_with(error):
        def calculate_loss(self, interaction):
            raise error
        monkeypatch.setattr(GRU4Rec, "calculate_loss", calculate_loss)
    return breaks_with


def test_a_failed_run_is_recorded_and_stops_no_other(tmp_path, call, break_gru, capsys):
    break_gru(RuntimeError("=out of\nmemory"))
    assert main([*call, "--model=GRU4Rec,Pop"]) == 1
    failed, = [record for record in records(tmp_path / "out") if record["status"] == "failed"]
    assert failed["model"] == "GRU4Rec" and failed["reason"] == "RuntimeError: =out of memory"
    assert "hit@10" not in failed
    assert "out of" in (tmp_path / "out" / "runs" / failed["run_id"] / "traceback.txt").read_text()
    by_model = {row["model"]: row for row in rows_of(tmp_path / "out" / "leaderboard.csv")}
    assert by_model["GRU4Rec"]["status"] == "failed" and by_model["GRU4Rec"]["reason"] == failed["reason"]
    assert by_model["Pop"]["status"] == "ok" and float(by_model["Pop"]["hit@10"]) >= 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_failure_that_cannot_be_recorded_has_a_reason_too(tmp_path, call, monkeypatch):
    seen = []

    def full(*arguments, **settings):
        monkeypatch.setattr("recbole_genrec.suite.parallel.size", lambda: 2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_genrec.suite.run", full)
    monkeypatch.setattr("recbole_genrec.suite.failures.is_everybodys", lambda record: seen.append(record["reason"]))
    monkeypatch.setattr("recbole_genrec.suite.os._exit", lambda code: seen.append(code))
    assert main([*call, "--model=Pop"]) == 1
    assert "the disk is full" in seen[0] and seen[1:] == [1]


def test_a_neighbour_that_is_nested_too_deep_stops_no_run(tmp_path, call):
    folder = tmp_path / "out" / "runs" / f"{NAME}-Pop-2023-0"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("[" * 100_000)
    assert main([*call, "--model=Pop"]) == 0


def test_output_dir_in_a_file_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert writable_folder("~/results") == tmp_path / "results" and (tmp_path / "results" / "runs").is_dir()


def test_scores_that_are_no_numbers_fail_the_run(tmp_path, call, monkeypatch):
    """RecBole would report a hit@10 for them."""
    from recbole_genrec.model.sequential_recommender.pop import Pop

    monkeypatch.setattr(Pop, "full_sort_predict", lambda self, batch: self.count.repeat(len(batch)) * float("nan"))
    assert main([*call, "--model=Pop"]) == 1
    record, = records(tmp_path / "out")
    assert record["status"] == "failed" and "NaN" in record["reason"]


def test_an_interrupt_leaves_a_record_and_ends_the_call(tmp_path, call, break_gru):
    break_gru(KeyboardInterrupt())
    assert main([*call, "--model=GRU4Rec,Pop"]) == 130
    record, = records(tmp_path / "out")
    assert (record["model"], record["status"]) == ("GRU4Rec", "interrupted")
    row, = rows_of(tmp_path / "out" / "leaderboard.csv")
    assert row["status"] == "interrupted" and row["hit@10"] == ""


def test_an_earlier_leaderboard_row_is_still_there_after_a_new_run(tmp_path, call):
    for expected in (1, 2):
        assert main([*call, "--model=Pop", f"--seed={expected}"]) == 0
        assert len(rows_of(tmp_path / "out" / "leaderboard.csv")) == expected
