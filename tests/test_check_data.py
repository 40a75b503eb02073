"""Leak checks on files: what is flagged and what is not, ``check-data``, the record, real data."""

from __future__ import annotations

import gzip
import random
from hashlib import sha256
from pathlib import Path

import pytest
from converter_helpers import SHARED
from data_helpers import NAME, load, random_interactions, records, write_dataset

from dataset_converters.__main__ import main as convert
from recbole_genrec import benchmark
from recbole_genrec.cli import main
from recbole_genrec.config import Config
from recbole_genrec.data.leakage import find_leaks
from recbole_genrec.data.loading import Data
from recbole_genrec.settings import property_file, read_yaml


def hashed(item: str) -> str:
    return sha256(item.encode()).hexdigest()[:12]


def test_neither_the_order_of_rows_nor_recboles_numbering_counts(tmp_path):
    rows = [(user, item, time // 2) for user, item, time in random_interactions(users=80, items=60, seed=3)]
    reports = []
    # Any order that keeps each user's ties as they are.
    for key in (lambda row: row[0], lambda row: sha256(row[0].encode()).hexdigest()):
        folder = tmp_path / str(len(reports))
        folder.mkdir()
        data = load(write_dataset(folder, sorted(rows, key=key)))
        reports.append(find_leaks(data.dataset, data.parts))
    one, other = (report["adjacency"].pop("appearance") for report in reports)
    assert reports[0] == reports[1] and one != other


def ids_in_order_of_appearance(users: int = 300, items: int = 600) -> list[tuple[str, str, float]]:
    """Grouped by user; the first item that nobody had before is 1000, the next 1001."""
    dice, names = random.Random(4), {}
    return [(f"u{user}", names.setdefault(item, f"{1000 + len(names)}"), float(time))
            for user in range(users) for time, item in enumerate(dice.sample(range(items), 5))]


def flags(folder: Path, rows, **options) -> list[str]:
    data = load(write_dataset(folder, rows, **options))
    return find_leaks(data.dataset, data.parts)["flagged"]


def test_ids_by_first_appearance_are_flagged_and_shuffled_ones_are_not(tmp_path):
    rows = ids_in_order_of_appearance()
    assert flags(tmp_path, rows) == ["adjacency_appearance", "adjacency_raw_id"]
    renamed = [(user, hashed(item), time) for user, item, time in rows]
    assert flags(tmp_path, renamed) == ["adjacency_appearance"]  # RecBole numbers them all the same
    assert flags(tmp_path, sorted(rows, key=lambda row: hashed(row[1]))) == ["adjacency_raw_id"]
    assert flags(tmp_path, sorted(renamed, key=lambda row: row[1])) == []


def sessions(key, users: int = 60, items: int = 40, per_time: int = 3) -> list[tuple[str, str, float]]:
    """Nine items a user, in groups of one time within which they are sorted by ``key``; ids say nothing else."""
    dice, rows = random.Random(9), []
    for user in range(users):
        chosen = [f"{item}" for item in dice.sample(range(100, 100 + items), 9)]
        rows += [(f"u{user}", item, float(place)) for place in range(0, 9, per_time)
                 for item in sorted(chosen[place:place + per_time], key=key)]
    return rows


def test_the_order_of_ties_is_flagged_where_ids_ascend(tmp_path):
    assert flags(tmp_path, sessions(int)) == ["tie_order"]
    assert flags(tmp_path, sessions(hashed)) == []
    assert flags(tmp_path, sessions(lambda item: -int(item))) == ["tie_order"]


def test_users_sorted_by_id_are_flagged_whether_or_not_times_say_so(tmp_path):
    by_id = [(user, item, float(place)) for place, (user, item, _) in enumerate(sessions(int, per_time=9))]
    for times in ("time", None):
        assert "sorted_by_id" in flags(tmp_path, by_id, true_time_field=times)
    fair = [(user, item, float(place)) for place, (user, item, _) in enumerate(sessions(hashed, per_time=9))]
    for times in ("time", None):
        assert "sorted_by_id" not in flags(tmp_path, fair, true_time_field=times)


def test_few_pairs_are_no_evidence(tmp_path):
    """One user, all ascending and tied: it may be chance."""
    rows = [("u", f"{item}", 1.0) for item in range(10, 16)]
    assert flags(tmp_path, rows, topk=[1], valid_metric="NDCG@1") == []


def test_targets_in_the_history_cold_items_and_duplicates(tmp_path):
    rows = [("a", item, float(time)) for time, item in enumerate(["1", "2", "3", "2", "1"])]
    rows += [("b", item, float(time)) for time, item in enumerate(["1", "3", "3", "4"])]
    rows += [("c", "1", 1.0), ("c", "2", 1.0), ("c", "2", 1.0), ("c", "3", 2.0), ("c", "4", 3.0)]
    data = load(write_dataset(tmp_path, rows, topk=[1], valid_metric="NDCG@1"))
    report = find_leaks(data.dataset, data.parts)
    assert report["targets_in_history"] == {"valid": 2, "test": 1}
    assert report["test_only"] == {"items": 1, "users": 2}
    assert report["duplicates"] == {"interactions": 4, "same_time": 1}
    assert report["flagged"] == ["valid_in_history", "test_in_history"]
    assert flags(tmp_path, rows, topk=[1], valid_metric="NDCG@1", repeat_consumption=True) == []


# ------------------------------------------------------------------------------------ the command, the record

def test_what_was_left_out_is_in_the_table(tmp_path, capsys):
    rows = random_interactions(users=30)
    lost = rows[0][1]
    titles = {item: item for _, item, _ in rows if item != lost}
    data = write_dataset(tmp_path, rows, titles)
    path = tmp_path / NAME / f"{NAME}.item"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    assert main(["check-data", f"--dataset={NAME}", f"--config_files={data}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    left_out, = (line for line in lines if "left out when read" in line)
    repeated, = (line for line in lines if "repeat an item" in line)
    assert f" {sum(item == lost for _, item, _ in rows)} " in left_out and "note" in left_out
    assert " 1 " in repeated and "note" in repeated


def test_the_command_prints_a_table_for_each_data_set(tmp_path, capsys):
    write_dataset(tmp_path, sessions(int), name="bad")
    settings_file = write_dataset(tmp_path, sessions(hashed), name="good")
    assert main(["check-data", "--dataset=bad,good", f"--data_path={tmp_path}", f"--config_files={settings_file}"]) == 0
    said = capsys.readouterr()
    bad, good = said.out.split("\ngood: ")
    assert said.err == "" and bad.startswith("bad: 60 users, 40 items, 540 interactions\n")
    assert bad.count("LEAK") == 1 and "flagged: tie_order" in bad and "flagged: nothing" in good
    assert {path.name for path in tmp_path.iterdir()} == {"bad", "good", "bad.yaml", "good.yaml"}  # nothing is written


def test_the_command_needs_no_catalogue_of_topk_items_and_takes_settings(tmp_path, capsys):
    rows = [("u", item, float(time)) for time, item in enumerate("abcab")]
    data = write_dataset(tmp_path, rows)
    call = ["check-data", f"--dataset={NAME}", f"--config_files={data}"]
    assert main(call) == 0 and "flagged: valid_in_history, test_in_history" in capsys.readouterr().out
    assert main([*call, "--repeat_consumption=true"]) == 0 and "flagged: nothing" in capsys.readouterr().out
    assert main([*call, "--true_time_field=null"]) == 0 and "no times to check" in capsys.readouterr().out


@pytest.mark.parametrize("option, named", [
    ("--dataset=nowhere", "nowhere.inter"), ("--dataset=../x", "no data set name"), ("--dataset=,", "is empty"),
    ("--repeat_consumtion=true", "did you mean 'repeat_consumption'"), ("--repeat_consumption=perhaps", "perhaps"),
    ("--config_files=no.yaml", "no.yaml"), ("stray", "stray"), ("--TIME_FIELD=when", "when"),
])
def test_a_mistake_is_one_line_before_anything_is_read(option, named, tmp_path, capsys):
    data = write_dataset(tmp_path, sessions(hashed))
    assert main(["check-data", f"--dataset={NAME}", f"--config_files={data}", option]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and named in said.err


def test_a_data_set_that_cannot_be_read_or_split_stops_no_other(tmp_path, capsys):
    write_dataset(tmp_path, [("u", "a", 1.0), ("u", "b", 2.0)], name="short")
    write_dataset(tmp_path, [], name="empty")
    data = write_dataset(tmp_path, sessions(hashed))
    assert main(["check-data", f"--dataset=short,empty,{NAME}", f"--config_files={data}"]) == 2
    said = capsys.readouterr()
    short, empty = said.err.splitlines()
    assert "'short' leaves no" in short and "'empty' cannot be read" in empty and "flagged: nothing" in said.out


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as done:
        main(["check-data", "--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0 and "recbole-genrec check-data --dataset=ml-100k" in said and "LEAK" in said


def test_a_record_holds_the_report_and_no_check_breaks_a_run(tmp_path, monkeypatch, caplog):
    data = write_dataset(tmp_path, sessions(int))
    call = ["run", "--model=Pop", f"--dataset={NAME}", f"--config_files={data}"]
    assert main([*call, f"--output_dir={tmp_path / 'out'}"]) == 0
    record, = records(tmp_path / "out")
    loaded = load(data)
    assert record["leakage"] == find_leaks(loaded.dataset, loaded.parts) and "tie_order" in record["leakage"]["flagged"]

    def broken(*_):
        raise MemoryError("too big")

    monkeypatch.setattr(benchmark, "find_leaks", broken)
    assert main([*call, f"--output_dir={tmp_path / 'broken'}"]) == 0
    record, = records(tmp_path / "broken")
    assert record["status"] == "ok" and record["leakage"] is None and "too big" in caplog.text


# ------------------------------------------------------------------------------------------------- real data

def words(path: Path) -> list[list[str]]:
    if not path.is_file():
        pytest.skip(f"needs {path.relative_to(SHARED)} under $GENREC_SHARED/datasets")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.split() for line in file]


@pytest.mark.parametrize("name, ndcg, tied_users", [("amazon-toys", 0.0450, 9518), ("amazon-beauty", 0.0450, 9719)])
def test_amazon_gives_its_test_items_away(name, ndcg, tied_users, tmp_path):
    sequences, times = words(SHARED / name / "user_sequences.txt.gz"), words(SHARED / name / "user_timestamps.txt.gz")
    data = load(write_dataset(tmp_path, [(user, item, float(time)) for (user, *items), (_, *at) in zip(sequences, times)
                                         for item, time in zip(items, at)]))
    report = find_leaks(data.dataset, data.parts)
    assert report["flagged"] == ["adjacency_appearance", "adjacency_raw_id", "tie_order"]
    assert report["adjacency"]["appearance"]["ndcg"] == pytest.approx(ndcg, abs=1e-4)
    assert report["ties"]["tied_targets"] == tied_users and report["ties"]["ascending"] == 1
    assert 0.45 < report["order"]["ascending"] < 0.48  # in true time, ids rather descend


@pytest.mark.parametrize("name, ndcg", [("amazon-toys", 0.0660), ("amazon-beauty", 0.0450)])
def test_p5s_own_numbers_give_its_test_items_away(name, ndcg, tmp_path):
    rows = [(user, item, float(place)) for user, *items in words(SHARED / name / "upstream_p5_sequential.txt.gz")
            for place, item in enumerate(items)]
    data = load(write_dataset(tmp_path, rows, true_time_field=None))
    report = find_leaks(data.dataset, data.parts)
    assert report["flagged"] == ["adjacency_appearance", "adjacency_raw_id"]
    assert report["adjacency"]["raw_id"]["ndcg"] == pytest.approx(ndcg, abs=1e-4)


@pytest.mark.parametrize("name", ["amazon-toys", "amazon-beauty"])
def test_shuffled_ids_and_hashed_ties_give_nothing_away(name, tmp_path):
    """The documented conversion is flagged, and mended by two options."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {name} under $GENREC_SHARED/datasets")
    about = read_yaml(property_file("dataset", name))["about"]
    command = about["convert_sequences"].replace("FOLDER", str(SHARED / name))
    flagged = {}
    for folder, options in (("published", []), ("mended", ["--item_ids=shuffled", "--tie_order=hash"])):
        assert convert([*command.split()[3:], f"--output={tmp_path / folder}", *options]) == 0
        data = Data.load(Config("Pop", name, config_dict={"data_path": str(tmp_path / folder)}))
        flagged[folder] = find_leaks(data.dataset, data.parts)["flagged"]
    assert flagged == {"published": ["adjacency_appearance", "adjacency_raw_id", "tie_order"], "mended": []}
