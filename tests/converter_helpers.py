"""Run the dataset converters on inline files and read what they wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dataset_converters import staging
from dataset_converters.__main__ import main

staging._sync = lambda path: None  # hundreds of conversions need not survive a loss of power
# Most tests are about something else than titles and have few.
UNTITLED = ["--min-title-coverage", "0"]
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("GENREC_SHARED", REPOSITORY.parent / "shared")) / "datasets"


def run(folder: Path, *options: str, **files: str | bytes | list[str]) -> int:
    """Write ``files`` into ``folder``, convert the sequences to ``folder/out/data``, return the exit code."""
    argv = ["sequences", *UNTITLED, "--output", str(folder / "out"), "--name", "data"]
    for option, content in files.items():
        argv += [f"--{option}", str(put(folder / f"{option}.txt", content))]
    return main([*argv, *options])


def put(path: Path, content: str | bytes | list[str]) -> Path:
    """Write a file: bytes, text as UTF-8, or lines."""
    if isinstance(content, list):
        content = "".join(line + "\n" for line in content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def convert(folder: Path, source: str, *options: str | Path, name: str = "data") -> int:
    """Convert to ``folder/out/<name>``, return the exit code."""
    return main([source, *UNTITLED, *map(str, options), "--output", str(folder / "out"), "--name", name])


def header(folder: Path, kind: str, name: str = "data") -> list[str]:
    return (folder / "out" / name / f"{name}.{kind}").read_text("utf-8").split("\n")[0].split("\t")


def table(folder: Path, kind: str, name: str = "data") -> list[list[str]]:
    """The rows of a converted file, read as raw tab-separated text."""
    text = (folder / "out" / name / f"{name}.{kind}").read_bytes().decode()
    assert text.endswith("\n")
    header, *rows = [line.split("\t") for line in text[:-1].split("\n")]
    assert all(len(row) == len(header) for row in rows)
    return rows


def column(folder: Path, kind: str, field: str, name: str = "data") -> dict[str, str]:
    """One column of a converted file by the first ("title:token" by item id)."""
    place = header(folder, kind, name).index(field)
    return {row[0]: row[place] for row in table(folder, kind, name)}


def report(folder: Path, name: str = "data") -> dict[str, Any]:
    return json.loads((folder / "out" / name / "conversion.json").read_text("utf-8"))


def titles_of(folder: Path, name: str = "data") -> dict[str, str]:
    return {row[0]: row[1] for row in table(folder, "item", name)}


def sequences_of(folder: Path, name: str = "data") -> dict[str, list[tuple[str, ...]]]:
    """By user the rows without the user, which must be numbered from 1 in this order."""
    sequences: dict[str, list[tuple[str, ...]]] = {}
    for user, *rest in table(folder, "inter", name):
        sequences.setdefault(user, []).append(tuple(rest))
    for rows in sequences.values():
        rows.sort(key=lambda row: int(row[1]))
        assert [row[1] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    return sequences


def bytes_of(folder: Path, name: str = "data") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out" / name).iterdir()}


def rejects_of(folder: Path, name: str = "data") -> list[tuple[str, int]]:
    """File and line of each malformed line; all must be listed."""
    rejects = report(folder, name)["rejects"]
    assert rejects["count"] == len(rejects["lines"])
    return [(reject["file"], reject["line"]) for reject in rejects["lines"]]


def fails(capsys: Any, code: int, text: str) -> None:
    """Exit code 2 and one line on stderr that says ``text``."""
    captured = capsys.readouterr()
    assert code == 2, captured
    assert text in captured.err and captured.err.count("\n") == 1, captured.err
