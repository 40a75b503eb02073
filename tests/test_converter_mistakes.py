"""What goes wrong on a user's side: one line, exit code 2, nothing left behind and nobody's files lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from converter_helpers import REPOSITORY, convert, fails, put, rejects_of, report, titles_of

from dataset_converters.__main__ import main

RATINGS = ["userId,movieId,rating,timestamp", *(f"{n % 3 + 1},{n % 4 + 1},3.5,{n}" for n in range(24))]
MOVIES = [f'{n},"Film No. {n}, The: Part II (1999)",Drama' for n in range(1, 5)]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return ["--ratings", str(put(tmp_path / "r.csv", RATINGS)), "--movies", str(put(tmp_path / "m.csv", MOVIES))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "9999-12-31", "--k-core", "99"], "no interactions are left"), (["--until", "soon"], "soon"),
        (["--min-rating", "nan"], "nan"), (["--min-rating", "inf"], "inf"),
        (["--expect", "users=3,users=3"], "users"), (["--expect", "users=4,items=9"], "3 users instead of 4"),
        (["--name", "a,b"], "a,b"), (["--name", "n" * 300], "name"), (["--name", "a\nb"], "name"),
    ],
    ids=repr,
)  # fmt: skip
def test_options(tmp_path: Path, files, capsys: pytest.CaptureFixture[str], options, said: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    command = [sys.executable, "-m", "dataset_converters", "movielens", *files, "--output", "p/q", "--name", "data"]
    done = subprocess.run([*command, *options], capture_output=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)})  # fmt: skip
    message = done.stderr.decode(errors="replace")
    assert done.returncode == 2 and message.count("\n") == 1 and said in message, message
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_day_at_the_end_of_all_days_is_no_bound(tmp_path: Path, files) -> None:
    assert convert(tmp_path, "movielens", *files, "--until", "9999-12-31") == 0
    assert report(tmp_path)["counts"]["interactions"] == 24
    assert titles_of(tmp_path)["1"] == "The Film No. 1: Part II (1999)"


def test_a_closed_pipe_is_no_failure(tmp_path: Path, files) -> None:
    command = [sys.executable, "-m", "dataset_converters", "movielens", *files, "--output", "out", "--name", "data"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)})  # fmt: skip
    os.close(writing)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert (tmp_path / "out" / "data" / "data.inter").is_file()


def test_force_replaces_a_conversion_and_nothing_else(tmp_path: Path, files, capsys) -> None:
    target = tmp_path / "out" / "data"
    assert convert(tmp_path, "movielens", *files) == 0 == convert(tmp_path, "movielens", *files, "--force")
    put(target / "thesis.tex", "precious")
    fails(capsys, convert(tmp_path, "movielens", *files, "--force"), "thesis.tex")
    assert (target / "thesis.tex").read_text() == "precious"
    put(tmp_path / "out" / "mine" / "conversion.json", "{}")
    fails(capsys, convert(tmp_path, "movielens", *files, "--force", name="mine"), "mine")
    assert (tmp_path / "out" / "mine" / "conversion.json").read_text() == "{}"
    put(tmp_path / "out" / ".other.staging" / "precious", "mine")
    fails(capsys, convert(tmp_path, "movielens", *files, name="other"), "staging")
    assert (tmp_path / "out" / ".other.staging" / "precious").read_text() == "mine"


def test_one_bad_byte_costs_one_line_and_no_other_title(tmp_path: Path, files) -> None:
    movies = b"1,Caf\xc3\xa9 (1999),Drama\n2,Pok\xc3\xa9mon (1999),Drama\n3,bad \xe9 byte (1999),Drama\n4,Plain,Drama\n"
    files[3] = str(put(tmp_path / "m.csv", movies))
    assert convert(tmp_path, "movielens", *files, "--max-rejects", "0.5") == 0
    assert titles_of(tmp_path) == {"1": "Café (1999)", "2": "Pokémon (1999)", "3": "", "4": "Plain"}
    assert rejects_of(tmp_path) == [("m.csv", 3)]
    files[3] = str(put(tmp_path / "m.csv", movies.replace(b"\xc3\xa9", b"\xe9")))  # all of it Latin-1
    assert convert(tmp_path, "movielens", *files, name="latin") == 0
    assert report(tmp_path, "latin")["inputs"]["movies"]["encoding"] == "latin-1"


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b"\n\r\n"])
def test_a_file_without_text_is_empty(tmp_path: Path, files, capsys, content: bytes) -> None:
    put(tmp_path / "r.csv", content)
    fails(capsys, convert(tmp_path, "movielens", *files), "empty file")


def test_blank_lines_may_stand_before_the_header(tmp_path: Path, files) -> None:
    put(tmp_path / "r.csv", ["", "", *RATINGS])
    assert convert(tmp_path, "movielens", *files) == 0 and rejects_of(tmp_path) == []


@pytest.mark.parametrize(
    ("start", "said"), [(b"PK\x03\x04", "zip"), (b"\xfd7zXZ\x00", "xz"), (b"\xff\xfeu\x00", "UTF-16")]
)  # fmt: skip
def test_what_is_no_text_is_named(tmp_path: Path, files, capsys, start: bytes, said: str) -> None:
    put(tmp_path / "r.csv", start + b"rest of it\n")
    fails(capsys, convert(tmp_path, "movielens", *files), said)


def test_titles_are_the_point(tmp_path: Path, files, capsys) -> None:
    """Metadata of something else: not a single item has a title."""
    put(tmp_path / "m.csv", ["99,Another (1999),Drama"])
    call = ["movielens", *files, "--output", str(tmp_path / "out"), "--name", "data"]
    fails(capsys, main(call), "not one of 4 items has a title")
    assert convert(tmp_path, "movielens", *files, "--min-title-coverage", "0") == 0


def test_the_report_says_what_was_asked_and_read(tmp_path: Path, files) -> None:
    put(tmp_path / "r.csv", [*RATINGS, *["bad"] * 120])
    options = ["--max-rejects", "0.9", "--expect", "users=3", "--min-title-coverage", "0.5"]
    assert convert(tmp_path, "movielens", *files, *options) == 0
    said = json.loads((tmp_path / "out" / "data" / "conversion.json").read_text())
    assert said["expect"] == {"users": 3} and said["min_title_coverage"] == 0.5
    assert said["lines_read"] == 24 + 120 + 4 and said["rejects"]["count"] == 120
    assert len(said["rejects"]["lines"]) == 100 and said["rejects"]["not_listed"] == 20


def test_an_id_with_a_line_break_costs_its_line(tmp_path: Path) -> None:
    """U+2028 ends a line for whoever reads the output by str.splitlines."""
    sequences = put(tmp_path / "s", ["u a b c", "v a\u2028 b", "w b c"])
    titles = put(tmp_path / "t", ["a\tA", "b\tB", "c\tC"])
    options = ["--sequences", sequences, "--titles", titles, "--max-rejects", "0.5"]
    assert convert(tmp_path, "sequences", *options) == 0
    assert rejects_of(tmp_path) == [("s", 2)] and report(tmp_path)["counts"]["users"] == 2
