"""Run the ``sequences`` converter on inline files and read what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dataset_converters.__main__ import main


def run(folder: Path, *options: str, **files: str | bytes | list[str]) -> int:
    """Write ``files`` into ``folder``, convert to ``folder/out/data``, return the exit code."""
    argv = ["sequences", "--output", str(folder / "out"), "--name", "data"]
    for option, content in files.items():
        if isinstance(content, list):
            content = "".join(line + "\n" for line in content)
        path = folder / f"{option}.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        argv += [f"--{option}", str(path)]
    return main([*argv, *options])


def table(folder: Path, kind: str, name: str = "data") -> list[list[str]]:
    """The rows of a converted file, read as raw tab-separated text."""
    text = (folder / "out" / name / f"{name}.{kind}").read_bytes().decode()
    assert text.endswith("\n")
    header, *rows = [line.split("\t") for line in text[:-1].split("\n")]
    assert all(len(row) == len(header) for row in rows)
    return rows


def report(folder: Path, name: str = "data") -> dict[str, Any]:
    return json.loads((folder / "out" / name / "conversion.json").read_text("utf-8"))


def titles_of(folder: Path) -> dict[str, str]:
    return {row[0]: row[1] for row in table(folder, "item")}
