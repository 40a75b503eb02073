"""A committed row, measured again: the same settings on the same split, and whether the figures agree."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_genrec.config import Config
from recbole_genrec.data.loading import Data
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.significance import METRIC, interval, rows_with_files, user_gains
from recbole_genrec.files import writable_folder
from recbole_genrec.running import parallel
from recbole_genrec.saved_run import check_data, find_run, read_config, read_record
from recbole_genrec.suite import carry_out_runs
from recbole_genrec.tuning import epochs_for_minutes
from recbole_genrec.version import __version__

log = logging.getLogger("recbole_genrec")


def reproduce(runs: list[str], output_dir: str, data_path: str | None = None) -> int:
    """Carry out runs again and print each metric beside the one in the record.

    A metric agrees if it lies in the 95 % bootstrap interval over the users of the old one.

    Args:
        runs: folders of runs, or their ids.
        output_dir: where the new records go.
        data_path: folder that holds the data sets; None: ``dataset``.
    Returns:
        0 if all agree, 1 if a run failed or a metric does not agree, 2 if a run was refused.
    Raises:
        UserError: no such run, one without every user's list, or other data, before anything is trained.
    """
    if parallel.size() > 1:
        raise UserError("reproduce runs in one process: start it without torchrun")
    plan = [_plan(find_run(run).resolve(), data_path) for run in runs]
    target = writable_folder(output_dir)
    code = 0
    for rows, config, labels in plan:
        records, mistakes = carry_out_runs([(config, labels)], target, False)
        if mistakes or records[0]["status"] != "ok":
            code = 2 if mistakes else max(code, 1)
            continue
        lines = compared(rows, rows_with_files(records[0], target / "runs" / records[0]["run_id"]))
        if any(line[-1] == "outside" for line in lines):
            code = max(code, 1)
        print(f"\n{rows[0]['run_id']}, again as {records[0]['run_id']}")
        print(tabulate(lines, ["metric", "record", "95 % interval", "again", ""], floatfmt=".4f"))
    return code


def _plan(folder: Path, data_path: str | None) -> tuple[list[dict[str, Any]], Config, dict[str, Any]]:
    """The rows of an old run, how to carry it out again, and the labels of its record."""
    record = read_record(folder)
    rows = rows_with_files(record, folder)
    if record.get("tested") is False:
        raise UserError(f"run '{folder.name}' is a trial of a search: it was not tested")
    for row in rows:
        if not (metrics := _metrics(row)) or user_gains(row["users_file"], metrics[0]) is None:
            raise UserError(f"run '{folder.name}' has no hit@K or ndcg@K with every user's list to compare with")
    if record.get("version") != __version__:
        log.warning("warning: run %s is of version %s, this is %s: the same settings may train otherwise", folder.name,
                    record.get("version"), __version__)
    config = read_config(folder, record, data_path)
    check_data(folder, record, Data.load(config))
    config["force"] = True  # what was measured again before is no new measurement
    if config["max_train_minutes"]:
        epochs = epochs_for_minutes(config, record)
        if epochs is None:
            log.warning("warning: run %s went by max_train_minutes: on another machine it is another training",
                        folder.name)
        else:
            config["epochs"], config["max_train_minutes"] = epochs, None
    labels = ("ablation", "variant", "reference_hash", "variant_hash")
    return rows, config, {key: record[key] for key in labels if record.get(key)}


def compared(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[list]:
    """Of each metric: its name, the old value, its interval, the new value, and ``equal``, ``within`` or ``outside``.

    Args:
        old, new: the rows of a run, one for each set of prompts.
    """
    lines = []
    for one, other in zip(old, new, strict=True):
        for metric in _metrics(one):
            low, high = interval(user_gains(one["users_file"], metric).to_numpy())
            value = other.get(metric)
            verdict = "outside" if value is None or not low <= value <= high else "within"
            if value is not None and abs(value - one[metric]) < 1e-9:
                verdict = "equal"
            prompts = f" ({one['prompts']} prompts)" if len(old) > 1 else ""
            lines.append([metric + prompts, one[metric], f"{low:.4f}-{high:.4f}", value, verdict])
    return lines


def _metrics(row: dict[str, Any]) -> list[str]:
    return [key for key, value in row.items() if METRIC.fullmatch(key) and value is not None]
