"""Kill a conversion anywhere: nothing half is ever visible, the next run goes on and ends with the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from converter_helpers import REPOSITORY, bytes_of, convert, put, report

from dataset_converters import parsing, reading, staging

# Dies by SIGKILL before the n-th rename (every file becomes visible by one), or half-way through the n-th file.
KILLED = """
import os, signal, sys
from pathlib import Path
from dataset_converters import reading, staging
from dataset_converters.__main__ import main
reading.BLOCK_BYTES, when, left, rename = 200, sys.argv[1], [int(sys.argv[2])], os.replace

def replace(source, target):
    left[0] -= 1
    if not left[0]:
        if when == "after":
            rename(source, target)
        if when == "half":
            data = Path(source)
            data.is_file() and data.write_bytes(data.read_bytes()[:-5])
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.replace = replace
sys.exit(main(sys.argv[3:]))
"""


def _arguments(folder: Path) -> list[str]:
    lines = ["userId,movieId,rating,timestamp"] + [f"{n % 7 + 1},{n * 5 % 11 + 1},3.5,{n}" for n in range(60)]
    lines[9] = "broken"
    ratings = put(folder / "ratings.csv", lines)
    movies = put(folder / "movies.csv", [f"{n},Film {n} (1999),Drama" for n in range(1, 12)])
    return ["--ratings", str(ratings), "--movies", str(movies), "--max-rejects", "0.5", "--tie_order", "hash"]


def _blocks(folder: Path) -> int:
    return len(list(reading.InputFile(folder / "ratings.csv", reading.Rejects(1)).blocks()))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 200)


def _kill(folder: Path, arguments: list[str], when: str, number: int) -> int:
    argv = ["movielens", *arguments, "--output", str(folder / "out"), "--name", "data"]
    command = [sys.executable, "-c", KILLED, when, str(number), *argv]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_killed_at_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str) -> None:
    arguments = _arguments(tmp_path)
    assert convert(tmp_path, "movielens", *arguments, name="whole") == 0
    expected = bytes_of(tmp_path, "whole")["whole.inter"]
    resumed = 0
    last = _blocks(tmp_path) + 2
    for number in (1, 2, last - 1, last):  # the key, parts, the output folder itself
        assert _kill(tmp_path, arguments, when, number) == -signal.SIGKILL
        visible = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
        done = (tmp_path / "out" / "data").exists()
        assert done == (number == last and when == "after"), "complete or not there"
        assert len(visible) == 1 + done
        if done:
            assert bytes_of(tmp_path)["data.inter"] == expected
        capsys.readouterr()
        assert convert(tmp_path, "movielens", *arguments, "--force") == 0
        resumed += "parts are parsed already" in capsys.readouterr().err
        assert bytes_of(tmp_path)["data.inter"] == expected
        assert report(tmp_path)["rejects"] == report(tmp_path, "whole")["rejects"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "whole"], "nothing is left"
        for path in (tmp_path / "out" / "data").iterdir():
            path.unlink()
        (tmp_path / "out" / "data").rmdir()
    assert resumed >= 2


def test_killed_while_replacing_keeps_the_earlier_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path)
    assert convert(tmp_path, "movielens", *arguments, "--min-rating", "1") == 0
    earlier = bytes_of(tmp_path)
    assert _kill(tmp_path, [*arguments, "--force"], "after", _blocks(tmp_path) + 2) == -signal.SIGKILL
    assert not (tmp_path / "out" / "data").exists(), "moved aside, and nothing in its place yet"
    capsys.readouterr()
    assert convert(tmp_path, "movielens", *arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert bytes_of(tmp_path) == earlier, "it is back"


def _count_parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls, match = [], parsing.match
    monkeypatch.setattr("dataset_converters.movielens.match", lambda *a: (calls.append(1), match(*a))[1])
    return calls


def _interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    left, part = [after], staging.Staging.part

    def interrupted(self, name, make):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return part(self, name, make)

    monkeypatch.setattr(staging.Staging, "part", interrupted)


def test_finished_parts_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    arguments = _arguments(tmp_path)
    calls = _count_parses(monkeypatch)
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        assert convert(tmp_path, "movielens", *arguments) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert len(calls) == 3
    assert convert(tmp_path, "movielens", *arguments) == 0
    blocks = _blocks(tmp_path)
    assert len(calls) == blocks > 3 and "resuming: 3 parts" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["input", "version", "blocks", "damage"])
def test_parts_that_do_not_fit_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    arguments = _arguments(tmp_path)
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        assert convert(tmp_path, "movielens", *arguments) == 130
    calls = _count_parses(monkeypatch)
    if change == "input":
        text = (tmp_path / "ratings.csv").read_text().replace(",3.5,", ",4.5,")
        put(tmp_path / "ratings.csv", text)
    elif change == "version":
        monkeypatch.setattr(staging, "__version__", "next")
    elif change == "blocks":
        monkeypatch.setattr(reading, "BLOCK_BYTES", 190)
    else:
        parts = sorted((tmp_path / "out" / ".data.staging").glob("*.arrow"))
        assert len(parts) == 3
        parts[1].write_bytes(parts[1].read_bytes()[:20])
    capsys.readouterr()
    assert convert(tmp_path, "movielens", *arguments) == 0
    blocks = _blocks(tmp_path)
    assert len(calls) == (blocks - 2 if change == "damage" else blocks)
    assert ("resuming" in capsys.readouterr().err) == (change == "damage")
    result = bytes_of(tmp_path)["data.inter"]
    assert result.count(b"\t4.5\n" if change == "input" else b"\t3.5\n") == 59
    with monkeypatch.context() as patch:  # the same as from nothing
        patch.setattr(reading, "BLOCK_BYTES", 10**6)
        assert convert(tmp_path, "movielens", *arguments, name="whole") == 0
    assert bytes_of(tmp_path, "whole")["whole.inter"] == result


def test_a_failed_conversion_leaves_no_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path)
    for options in (["--max-rejects", "0.001"], ["--k-core", "99"], ["--expect", "users=1"]):
        assert convert(tmp_path, "movielens", *arguments, *options) == 2
        assert not (tmp_path / "out").exists()


def test_two_conversions_to_one_folder_do_not_run_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _arguments(tmp_path)
    with staging.Staging(tmp_path / "out" / "data"):
        assert convert(tmp_path, "movielens", *arguments) == 2
        assert capsys.readouterr().err == "error: data: another conversion to this folder is running\n"
        assert convert(tmp_path, "movielens", *arguments, name="other") == 0
    assert convert(tmp_path, "movielens", *arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "other"]
