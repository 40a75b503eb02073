"""A committed row, measured again: the same settings on the same split, and whether the figures agree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.significance import METRIC, interval, user_gains
from recbole_genrec.records import writable_folder
from recbole_genrec.saved_run import find_run, read_config, read_record
from recbole_genrec.suite import carry_out_runs

#: What must be equal for two runs to be of the same test.
_SAME_TEST = ("split_fingerprint", "mask_history", "candidates_fingerprint")


def reproduce(runs: list[str], output_dir: str, data_path: str | None = None) -> int:
    """Carry out runs again and print each metric beside the one in the record.

    A metric agrees if it lies in the 95 % bootstrap interval over the users of the old one.

    Args:
        runs: folders of runs, or their ids.
        output_dir: where the new records go.
        data_path: folder that holds the data sets; None: ``dataset``.
    Returns:
        0 if all agree, 1 if a run failed or a metric does not agree.
    Raises:
        UserError: no such run, or no such data, before anything is trained.
    """
    old = [(folder := find_run(run), read_record(folder)) for run in runs]
    plan = [(read_config(folder, record, data_path),
             {key: record[key] for key in ("ablation", "variant", "reference_hash", "variant_hash") if record.get(key)})
            for folder, record in old]
    target = writable_folder(Path(os.path.expanduser(output_dir)))
    agreed = True
    for (folder, record), (config, labels) in zip(old, plan):
        records, mistakes = carry_out_runs([(config, labels)], target, False)
        if mistakes or records[0]["status"] != "ok":
            agreed = False
            continue
        lines = compared(folder, record, records[0])
        agreed &= all(line[-1] != "outside" for line in lines)
        print(f"\n{folder.name}, again as {records[0]['run_id']}")
        print(tabulate(lines, ["metric", "record", "95 % interval", "again", ""], floatfmt=".4f"))
    return 0 if agreed else 1


def compared(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> list[list]:
    """Of each metric: its name, the old value, its interval, the new value, and ``equal``, ``within`` or ``outside``.

    Raises:
        UserError: the two were not tested on the same targets, or the old run's users cannot be read.
    """
    for key in _SAME_TEST:
        if old.get(key) != new.get(key):
            raise UserError(f"run '{folder.name}' was tested otherwise: {key} {old.get(key)}, now {new.get(key)}")
    lines = []
    for metric in (key for key in old if METRIC.fullmatch(key) and new.get(key) is not None):
        users = user_gains(folder / "per_user.parquet", metric)
        if users is None:
            raise UserError(f"run '{folder.name}' has no per_user.parquet that can be read")
        low, high = interval(users.to_numpy())
        verdict = "equal" if abs(new[metric] - old[metric]) < 1e-9 else \
            "within" if low <= new[metric] <= high else "outside"
        lines.append([metric, old[metric], f"{low:.4f}-{high:.4f}", new[metric], verdict])
    return lines
