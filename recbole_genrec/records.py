"""A result is a record: one folder a run, written whole or not at all; the leaderboard is derived from records."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_genrec.files import csv_cell, write_atomically
from recbole_genrec.record_form import RECORDED_METRIC, check_form

#: Columns of leaderboard.csv, in order. A record may hold more; the file shows these.
COLUMNS = [
    "run_id", "timestamp", "dataset", "model", "backbone", "seed", "hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20",
    "ndcg@20", "valid_rate", "duplicate_rate", "train_seconds", "eval_users_per_second", "peak_memory_mb",
    "trainable_parameters", "total_parameters", "dataset_fingerprint", "split_fingerprint", "config_hash", "version",
    "status", "mask_history", "hit@10_unmasked", "ndcg@10_unmasked", "hit@10_untied", "ndcg@10_untied",
    "untied_users", "users", "items_without_title", "items_sharing_title", "decode", "norm", "layout", "objective",
    "epochs_done", "reason", "targets_per_second", "tokens_per_second", "padding_share", "flops_per_target",
    "peak_device_memory_mb", "exact_share", "ablation", "variant",
    "item_index", "leaky", "prompts", "candidates", "candidates_fingerprint", "parse_rate", "cost_usd",
    "settings_label",
]


#: Of a record's metrics, what is said of lists and not of hits: the record has it, a dozen more columns would hide the
#: others.
LIST_METRICS = ("itemcoverage", "giniindex", "averagepopularity", "tailpercentage")
_OF_LISTS = re.compile(rf"({'|'.join(LIST_METRICS)})@\d+")


def write_record(run_dir: Path, record: dict[str, Any]) -> None:
    """Write ``record.json`` of a run."""
    write_atomically(run_dir / "record.json", json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n")


def read_records(output_dir: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """All records under ``<output_dir>/runs``, oldest first, and the record files that cannot be read."""
    records, broken = [], []
    for path in (output_dir / "runs").glob("*/record.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            check_form(record)
            records.append(record)
        except (OSError, ValueError, RecursionError):
            broken.append(path)
    return sorted(records, key=lambda record: (str(record.get("timestamp")), record["run_id"])), sorted(broken)


def update_leaderboard(output_dir: Path) -> tuple[Path, list[str]]:
    """Write ``leaderboard.csv`` from the records of all runs.

    Safe with several processes: the file is made whole under a lock. A leaderboard that is not one of ours, or
    that knows runs whose records are gone, is kept aside first: nothing is lost.

    Returns:
        the file, and warnings for the user.
    """
    path = output_dir / "leaderboard.csv"
    warnings = []
    with FileLock(str(output_dir / ".leaderboard.lock")):
        records, broken = read_records(output_dir)
        warnings += [f"{file} cannot be read and is left out of the leaderboard" for file in broken]
        if path.exists() and (reason := _why_keep(path, {record["run_id"] for record in records})):
            aside = path.with_name(f"leaderboard.{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}.csv.bak")
            os.replace(path, aside)
            warnings.append(f"{path} {reason}; it was kept as {aside.name}")
        write_atomically(path, leaderboard_csv(records))
    return path, warnings


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a record: itself, and one for each further set of prompts that it was tested with.

    Such a row has the metrics of its own prompts, the same training, and nothing that was measured with the first set
    alone (unmasked and untied metrics, validity, decoding speed).
    """
    rows = [record]
    for name, metrics in (record.get("other_prompts") or {}).items():
        shared = {key: value for key, value in record.items() if not RECORDED_METRIC.fullmatch(key)
                  and key not in ("valid_rate", "duplicate_rate", "near_miss_rate", "empty_rate",
                                  "eval_users_per_second", "exact_share")}
        rows.append({**shared, **metrics, "prompts": name})
    return rows


def leaderboard_csv(records: list[dict[str, Any]]) -> str:
    """The records as CSV text: ``COLUMNS``, then any other metric of hits; nothing where a record has no value."""
    others = sorted({key for record in records for key in record
                     if RECORDED_METRIC.fullmatch(key) and not _OF_LISTS.fullmatch(key)} - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *others], extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    for row in (row for record in records for row in rows_of(record)):
        writer.writerow({key: csv_cell(value) for key, value in row.items()})
    return text.getvalue()


def _why_keep(path: Path, run_ids: set[str]) -> str | None:
    """Why an existing leaderboard must not be overwritten, or None."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames is None or "run_id" not in reader.fieldnames:
                return "is not a leaderboard (no run_id column)"
            if foreign := [name for name in reader.fieldnames
                           if name not in COLUMNS and not RECORDED_METRIC.fullmatch(name)]:
                return f"has a column that is not ours ({foreign[0][:60]})"
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return f"cannot be read ({error})"
    if any(row.get(None) or None in row.values() for row in rows):
        return "has torn lines"
    if lost := [row["run_id"] for row in rows if row["run_id"] not in run_ids]:
        return f"has rows without a record (first: {lost[0][:60]})"
    return None
