"""Several runs in one call: everything is checked first, then run one after another; a failure stops nothing."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_genrec.benchmark import run
from recbole_genrec.config import Config
from recbole_genrec.errors import UserError
from recbole_genrec.model.registry import get_model
from recbole_genrec.records import update_leaderboard, writable_folder
from recbole_genrec.settings import merge, read_yaml
from recbole_genrec.validation import check_dataset, check_keys, known_keys

log = logging.getLogger("recbole_genrec")


def run_suite(models: list[str], datasets: list[str], seeds: list[int], config_files: list[str],
              overrides: dict[str, Any]) -> int:
    """Run every model on every data set with every seed and print the table.

    Returns:
        0, or 1 if a run failed (its record says why).
    Raises:
        UserError: a mistake in the call, found before anything is trained.
    """
    for model in models:
        get_model(model)
    given = gather_settings(models, datasets, config_files, overrides)
    given.setdefault("show_progress", sys.stderr.isatty())

    plan = plan_runs(models, datasets, seeds, given)
    output_dir = writable_folder(plan[0]["output_dir"])

    records, mistakes = [], 0
    for number, config in enumerate(plan, 1):
        log.info("[%d/%d] %s on %s, seed %s", number, len(plan), config["model"], config["dataset"], config["seed"])
        try:
            record = run(config, output_dir)
        except UserError as error:  # found when the data were read; the other runs go on
            print("error:", *str(error).split(), file=sys.stderr)
            mistakes += 1
            continue
        except OSError as error:  # not even the record could be written
            log.error("%s on %s failed: %s", config["model"], config["dataset"], error)
            records.append({"dataset": config["dataset"], "model": config["model"], "status": "failed"})
            continue
        except KeyboardInterrupt:
            _leaderboard(output_dir)
            raise
        records.append(record)
        if record["status"] != "ok":
            log.warning("%s on %s failed: %s", record["model"], record["dataset"], record["reason"])
        _leaderboard(output_dir)
    if not records:
        return 2
    measured = [f"{metric.lower()}@{k}" for k in plan[0]["topk"] for metric in plan[0]["metrics"]]
    shown = ["dataset", "model", "seed", "status", *measured, "train_seconds", "eval_users_per_second"]
    print(tabulate([[record.get(column) for column in shown] for record in records], headers=shown, floatfmt=".4f"))
    print(f"\nrecords: {output_dir / 'runs'}   leaderboard: {output_dir / 'leaderboard.csv'}")
    return 1 if any(record["status"] != "ok" for record in records) else 2 if mistakes else 0


def gather_settings(models: list[str], datasets: list[str], config_files: list[str],
                    overrides: dict[str, Any]) -> dict[str, Any]:
    """What the user set, in the files and over them.

    Raises:
        UserError: a name that no data set has, a file that cannot be read, a key that none of the models reads.
    """
    for dataset in datasets:
        if not re.fullmatch(r"[\w][\w.+-]{0,99}", dataset):
            raise UserError(f"'{dataset}' is no data set name: letters, digits, '.', '_', '+' and '-' only, up to 100")
    given: dict[str, Any] = {}
    for settings in (*(read_yaml(os.path.expanduser(file)) for file in config_files), overrides):
        given = merge(given, settings)
    check_keys([key for key in given if key not in ("model", "dataset")], models, datasets)
    return given


def plan_runs(models: list[str], datasets: list[str], seeds: list[int], given: dict[str, Any]) -> list[Config]:
    """One checked configuration a run, in the order in which they will run.

    Raises:
        UserError: a value that cannot be, a data set or a column that is not there.
    """
    plan = []
    for dataset in datasets:
        for seed in seeds or [None]:
            for model in models:
                # Only what this model reads: its run is then the same, hash included, whatever runs beside it.
                settings = {key: given[key] for key in given.keys() & known_keys(model, dataset)}
                config = Config(model, dataset, config_dict=settings if seed is None else {**settings, "seed": seed})
                check_dataset(config)
                if hasattr(config.model_class, "check_config"):
                    config.model_class.check_config(config)
                plan.append(config)
    return plan


def _leaderboard(output_dir: Path) -> None:
    _, warnings = update_leaderboard(output_dir)
    for warning in warnings:
        log.warning("warning: %s", warning)
