"""Converters on bad input: counted with line numbers, or one line on stderr, exit code 2 and nothing left."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from converter_helpers import report, run, table, titles_of

REPOSITORY = Path(__file__).resolve().parents[1]


# --- malformed lines

GOOD = {"sequences": ["u a b", "v a"], "timestamps": ["u 1 2", "v 1"], "titles": ["a\tA", "b\tB"]}


@pytest.mark.parametrize(
    ("option", "lines", "line", "reason"),
    [
        ("sequences", ["u a b", "v"], 2, "no items"),
        ("sequences", ["u a b", "v a", "u b"], 3, "second line of user u"),
        ("timestamps", ["u 1", "v 1"], 1, "2 items but 1 times"),
        ("timestamps", ["u 1 2", "w 1"], 2, "times of user w"),
        ("timestamps", ["u 1 2"], 2, "no times"),
        ("timestamps", ["u 1 2", "v 1", "w 1"], 3, "no sequence"),
        ("timestamps", ["u 1 2.5", "v 1"], 1, "'2.5'"),
        ("timestamps", ["u 1 1_0", "v 1"], 1, "'1_0'"),
        ("timestamps", ["u 1 99999999999999999999", "v 1"], 1, "whole number"),
        ("titles", ["a\tA", "b"], 2, "no tab"),
        ("titles", ["\tA", "b\tB"], 1, "no item id"),
        ("titles", ["a\tA", "a\tB"], 2, "second line of item a"),
        ("titles", ["1::A::Drama", "2::B"], 2, "'::'"),
        ("categories", ['{"id": "a", "categories": [["X"]]}', "{"], 2, "JSON"),
        ("categories", ['{"id": "a", "categories": "unknown"}'], 1, "form"),
        ("categories", ['["a"]'], 1, "form"),
        ("attributes", ["a 1"], 1, "no tab"),
    ],
)  # fmt: skip
def test_malformed_lines_are_on_record(
    tmp_path: Path, option: str, lines: list[str], line: int, reason: str
) -> None:
    assert run(tmp_path, "--max-rejects", "0.5", **{**GOOD, option: lines}) == 0
    rejects = report(tmp_path)["rejects"]
    assert rejects["count"] == 1
    assert (rejects["lines"][0]["file"], rejects["lines"][0]["line"]) == (f"{option}.txt", line)
    assert reason in rejects["lines"][0]["reason"]


def test_a_malformed_line_of_times_costs_the_times_only(tmp_path: Path) -> None:
    assert run(tmp_path, "--max-rejects", "1", **{**GOOD, "timestamps": ["u 1", "v 1"]}) == 0
    assert [row[3] for row in table(tmp_path, "inter")] == ["", "", "1"]


def test_too_many_malformed_lines_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, **{**GOOD, "titles": ["a\tA", "b"]}) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "titles.txt line 2: no tab" in error
    assert not (tmp_path / "out").exists()


# --- failures: one line, exit 2, nothing left


def _fails(capsys: pytest.CaptureFixture[str], code: int, text: str) -> None:
    captured = capsys.readouterr()
    assert code == 2
    assert text in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/abs", "a\\b", "a\nb"])
def test_names_that_are_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    _fails(capsys, run(tmp_path, f"--name={name}", **GOOD), "not a plain folder name")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "empty file"),
        (b" \n\n", "empty file"),
        (gzip.compress(b"", mtime=0), "empty file"),
        (gzip.compress(b"a\tA\n" * 1000, mtime=0)[:-12], "damaged gzip"),
        (b"\x1f\x8bnot gzip at all", "damaged gzip"),
        (gzip.compress(b"a\tA\n", mtime=0) + b"tail", "damaged gzip"),
    ],
)  # fmt: skip
def test_unreadable_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, text: str
) -> None:
    _fails(capsys, run(tmp_path, **{**GOOD, "titles": content}), text)
    assert not (tmp_path / "out").exists()


def test_input_that_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fails(capsys, run(tmp_path, "--titles", str(tmp_path / "no.tsv"), **GOOD), "no such file")
    _fails(capsys, run(tmp_path, "--titles", str(tmp_path), **GOOD), "not a file")


def test_hash_order_without_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {key: GOOD[key] for key in ("sequences", "titles")}
    _fails(capsys, run(tmp_path, "--tie_order=hash", **files), "needs timestamps")
    _fails(capsys, run(tmp_path, "--tie_order=hash", timestamps=["u", "v"], **files), "timestamps")
    assert not (tmp_path / "out").exists()


def test_line_break_in_an_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fails(capsys, run(tmp_path, **{**GOOD, "sequences": ["u a\u2028b", "v a"],
                                    "timestamps": ["u 1", "v 1"]}), "line break")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_existing_output_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, **GOOD) == 0
    capsys.readouterr()
    changed = {**GOOD, "titles": ["a\tOther"]}
    _fails(capsys, run(tmp_path, **changed), "exists already")
    assert titles_of(tmp_path)["a"] == "A"
    # A failing replacement leaves the earlier conversion as it was.
    _fails(capsys, run(tmp_path, "--force", **{**changed, "titles": ["a"]}), "malformed")
    assert titles_of(tmp_path)["a"] == "A"
    assert run(tmp_path, "--force", **changed) == 0
    assert titles_of(tmp_path)["a"] == "Other"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


def test_force_deletes_nothing_but_a_conversion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "out" / "data" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("...")
    _fails(capsys, run(tmp_path, "--force", **GOOD), "conversion.json")
    assert precious.exists()


def test_command_line_reports_in_one_line_without_traceback(tmp_path: Path) -> None:
    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dataset_converters", *argv],
            cwd=REPOSITORY, capture_output=True, text=True,
        )  # fmt: skip

    (tmp_path / "s").write_text("u a b\n")
    (tmp_path / "t").write_text("a\tA\nb\tB\n")
    good = ["sequences", "--sequences", f"{tmp_path}/s", "--titles", f"{tmp_path}/t", "--name", "d"]
    done = command(*good, "--output", f"{tmp_path}/out")
    assert (done.returncode, done.stderr) == (0, "") and "1 users, 2 items" in done.stdout
    for argv in (
        [*good, "--output", f"{tmp_path}/t/below"],  # a file where a folder should be
        [*good, "--output", f"{tmp_path}/out", "--max-rejects", "2"],
        ["nonsense"],
    ):
        failed = command(*argv)
        assert failed.returncode == 2 and failed.stderr.count("\n") == 1, failed.stderr
    assert "--tie_order" in command("sequences", "--help").stdout
