"""Reading a leaderboard: the rows of a CSV file, each replaced by its record where there is one."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from recbole_genrec.errors import UserError
from recbole_genrec.record_form import TEXTS, check_form
from recbole_genrec.records import read_records

_NEEDED = ("run_id", "dataset", "model", "status")


def read(leaderboard: Path) -> tuple[list[dict[str, Any]], Path]:
    """The records of a leaderboard, oldest first, and the output folder that it is of.

    A CSV file says which rows; a folder means its ``leaderboard.csv`` and every record under its ``runs/``. A row
    without a record has what the file says.

    Raises:
        UserError: there is no such file, or it is no leaderboard, or it has no row.
    """
    if leaderboard.is_dir():
        folder, file = leaderboard, leaderboard / "leaderboard.csv"
        if not file.is_file() and not (folder / "runs").is_dir():
            raise UserError(f"folder '{leaderboard}' holds neither leaderboard.csv nor runs/")
    else:
        folder, file = leaderboard.parent, leaderboard
        if not file.exists():
            raise UserError(f"no leaderboard '{leaderboard}'")
    rows = _read_csv(file) if file.is_file() else []
    records = {record["run_id"]: plain(record) for record in read_records(folder)[0]}
    chosen = [row for row in rows if row["run_id"] not in records]
    named = {row["run_id"] for row in rows}
    chosen += [record for run_id, record in records.items() if leaderboard.is_dir() or run_id in named]
    if not chosen:
        raise UserError(f"leaderboard '{leaderboard}' has no row")
    return sorted(chosen, key=lambda record: (str(record.get("timestamp")), str(record["run_id"]))), folder


def plain(value: Any) -> Any:
    """A value without numbers that JSON does not have: NaN and the infinite become None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_csv(file: Path) -> list[dict[str, Any]]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            header = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    if missing := [name for name in _NEEDED if name not in header]:
        raise UserError(f"{file} is no leaderboard: it has no column {' and no '.join(missing)}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UserError(f"row {number} of {file} has another number of cells than its header")
    found = [{name: _value(name, text) for name, text in row.items()} for row in rows]
    for number, row in enumerate(found, 1):
        try:
            check_form(row)
        except ValueError as error:
            raise UserError(f"row {number} of {file} is of no run: {error}") from None
    return found


def _value(name: str, text: str) -> Any:
    """What a cell of ``leaderboard.csv`` was in the record."""
    if text[:1] == "'" and text[1:].lstrip()[:1] in ("=", "+", "-", "@"):
        text = text[1:]  # the guard against formulas in spreadsheets
    if name in TEXTS or not text:
        return text or None
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text) if text.lstrip("-").isdecimal() else plain(float(text))
    except ValueError:
        return text
