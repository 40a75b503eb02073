"""A row measured again agrees with its record; the committed rows do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from data_helpers import NAME, random_interactions, records, write_dataset

from recbole_genrec.cli import main
from recbole_genrec.records import leaderboard_csv, read_records
from recbole_genrec.saved_run import read_record

RESULTS = Path(__file__).resolve().parents[1] / "results"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder of a run that is done."""
    folder = tmp_path_factory.mktemp("data")
    dataset = write_dataset(folder, random_interactions(40, 30, 6, 12))
    assert main(["run", "--model=SASRecPlus", f"--dataset={NAME}", f"--config_files={dataset}", "--epochs=2",
                 "--hidden_size=16", f"--output_dir={folder}/out", "--settings_label=small"]) == 0
    return folder / "out" / "runs" / records(folder / "out")[0]["run_id"]


def again(run: Path, output: Path, data: Path) -> list[str]:
    return ["reproduce", str(run), f"--output_dir={output}", f"--data_path={data}"]


def test_the_same_settings_give_the_same_figures(done, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(done.parent)
    assert main(again(Path(done.name), tmp_path, done.parents[2])) == 0
    assert capsys.readouterr().out.count("equal") == 6
    old, new = read_record(done), records(tmp_path)[0]
    assert new["run_id"] != old["run_id"] and new["config_hash"] == old["config_hash"]
    assert new["settings_label"] == "small" and new["valid"] == old["valid"]


def test_a_run_may_lie_in_any_folder_and_another_version_is_said(done, tmp_path, caplog):
    run = tmp_path / "copied"
    shutil.copytree(done, run)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "version": "0.0.1"}))
    assert main(again(run, tmp_path / "out", done.parents[2])) == 0
    assert "is of version 0.0.1" in caplog.text


def test_a_figure_outside_the_interval_is_exit_code_1(done, tmp_path, capsys):
    run = tmp_path / "claimed" / "runs" / done.name
    shutil.copytree(done, run)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "ndcg@10": record["ndcg@10"] + 0.2}))
    assert main(again(run, tmp_path / "out", done.parents[2])) == 0  # the users' file holds
    users = pd.read_parquet(run / "per_user.parquet")
    users.assign(rank=1.0).to_parquet(run / "per_user.parquet")
    assert main(again(run, tmp_path / "out", done.parents[2])) == 1
    assert "outside" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(done, tmp_path, capsys):
    run = tmp_path / "claimed" / "runs" / done.name
    shutil.copytree(done, run)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "split_fingerprint": "another"}))
    assert main(again(run, tmp_path / "out", done.parents[2])) == 2
    assert "are not those that run" in capsys.readouterr().err
    (run / "record.json").write_text(json.dumps({**record, "tested": False}))
    assert main(again(run, tmp_path / "out", done.parents[2])) == 2
    assert "is a trial of a search" in capsys.readouterr().err
    (run / "record.json").write_text(json.dumps(record))
    (run / "per_user.parquet").unlink()
    assert main(again(run, tmp_path / "out", done.parents[2])) == 2
    assert "with every user's list to compare with" in capsys.readouterr().err
    assert main(["reproduce", "nothing-of-that-name"]) == 2
    assert not list((tmp_path / "out").glob("runs/*"))


def test_what_was_measured_again_before_is_measured_anew(done, tmp_path):
    assert [main(again(done, tmp_path, done.parents[2])), main(again(done, tmp_path, done.parents[2]))] == [0, 0]
    assert len(records(tmp_path)) == 2


def test_a_row_that_went_by_minutes_comes_again_by_epochs(done, tmp_path):
    run = tmp_path / "claimed" / "runs" / done.name
    shutil.copytree(done, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("max_train_minutes: null", "max_train_minutes: 0.00001")
                                     .replace("epochs: 2\n", "epochs: 300\n"))
    assert main(again(run, tmp_path / "out", done.parents[2])) == 0
    record, = records(tmp_path / "out")
    assert record["epochs_done"] == 2


def cheapest() -> dict[str, Path]:
    """Of each model of ml-100k, which ships with RecBole, the newest of the table's rows that trained the shortest."""
    found: dict[str, tuple] = {}
    for path in RESULTS.glob("runs/ml-100k-*/record.json"):
        record = json.loads(path.read_text("utf-8"))
        config = (path.parent / "config.yaml").read_text("utf-8")
        if record["status"] != "ok" or record.get("variant") or "llm: ./" in config or "llm: /" in config \
                or "max_train_minutes: null" not in config:
            continue  # minutes are not the same work on another machine
        seconds = record.get("train_seconds") or 0.0
        if record["model"] not in found or seconds < found[record["model"]][0]:
            found[record["model"]] = (seconds, path.parent)
    return {model: folder for model, (_, folder) in sorted(found.items())}


#: Done in seconds.
_QUICK = ("Pop", "IDAdjacency")


@pytest.mark.parametrize("model", [model if model in _QUICK else pytest.param(model, marks=pytest.mark.slow)
                                   for model in cheapest()])
def test_the_cheapest_row_of_each_model_comes_out_again(model, tmp_path, capsys):
    code = main(["reproduce", str(cheapest()[model]), f"--output_dir={tmp_path}"])
    assert code == 0, capsys.readouterr().out


def test_the_leaderboard_is_made_from_the_committed_records():
    committed, broken = read_records(RESULTS)
    assert not broken and len(committed) > 50
    assert leaderboard_csv(committed) == (RESULTS / "leaderboard.csv").read_text("utf-8")
