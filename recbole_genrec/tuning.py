"""A search for settings: a few trials, equally long for every model, judged by validation alone.

What a search may try is data: ``properties/search/<model>.yaml`` lists the values of each key. The first trial has the
settings as they are, the others values drawn by chance, the same for the same seed. No trial looks at a test user.
"""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sklearn.model_selection import ParameterGrid, ParameterSampler
from tabulate import tabulate

from recbole_genrec.benchmark import config_hash
from recbole_genrec.config import Config
from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.records import csv_cell, writable_folder, write_atomically
from recbole_genrec.settings import named_file, read_yaml
from recbole_genrec.suite import carry_out_runs, gather_settings, plan_runs
from recbole_genrec.validation import known_keys

log = logging.getLogger("recbole_genrec")

#: Given settings that are none of the model's: they stay out of what a search writes.
_ELSEWHERE = {"output_dir", "data_path", "show_progress", "seed", "force", "resume"}


@dataclass
class Search:
    """The trials of one model on one data set.

    Attributes:
        model, dataset: their names.
        changes: of each trial, what it sets beside what is given; the first sets nothing.
        configs: of each trial, checked.
        given: what the user set.
    """

    model: str
    dataset: str
    changes: list[dict[str, Any]]
    configs: list[Config]
    given: dict[str, Any]


def plan_search(model: str, dataset: str, trials: int, config_files: list[str], overrides: dict[str, Any],
                space_name: str | None = None) -> Search:
    """The trials of a search, each of them checked.

    Args:
        trials: how many, the settings as they are included; fewer if the space holds no more.
        space_name: a name in ``properties/search`` or a YAML file; None: that of the model's name.
    Raises:
        UserError: a mistake in the call or in the space, found before anything is trained.
    """
    if trials < 1:
        raise UserError(f"--trials={trials} must be at least 1")
    given = gather_settings([model], [dataset], config_files, overrides)
    untouched, = plan_runs([model], [dataset], [], given)
    space = read_space(space_name or model, known_keys(model, dataset))
    # What the user sets stays as it is.
    space = {key: values for key, values in space.items() if key not in given}
    drawn = ParameterSampler(space, min(trials, len(ParameterGrid(space))), random_state=untouched["seed"])
    # One of the draws may be the settings as they are: then there are others enough.
    changes = [{}, *(change for change in drawn if any(untouched[key] != value for key, value in change.items()))]
    changes = changes[:trials]
    configs = [untouched, *(plan_runs([model], [dataset], [], {**given, **change})[0] for change in changes[1:])]
    return Search(model, dataset, changes, configs, given)


def read_space(name: str, known: frozenset[str]) -> dict[str, list]:
    """Values to try by key, from ``properties/search/<name>.yaml`` or a file of the user's own.

    Raises:
        UserError: no such file, a key that nothing reads, a key without a list of values.
    """
    space = read_yaml(named_file("search", name))
    for key, values in space.items():
        if key not in known:
            raise UserError(f"search '{name}': unknown configuration key '{key}'" + did_you_mean(str(key), known))
        if not isinstance(values, list) or not values:
            raise UserError(f"search '{name}': {key}={values!r} must be a list of values to try")
    return space


def carry_out(searches: list[Search], output_dir: str) -> int:
    """Train and validate the trials; print and write a table and the best settings of each search.

    The runs go to ``<output_dir>/tuning/runs``, the tables and settings to ``<output_dir>/tuning``.

    Returns:
        0, or 1 if a trial failed, or 2 if one was refused.
    """
    folder = writable_folder(Path(output_dir) / "tuning")
    failed = refused = 0
    for search in searches:
        records, mistakes = carry_out_runs([(config, {"test": False}) for config in search.configs], folder, False)
        failed += sum(record["status"] != "ok" for record in records)
        refused += mistakes
        print(report(search, records, folder))
    return 1 if failed else 2 if refused else 0


def report(search: Search, records: list[dict[str, Any]], folder: Path) -> str:
    """Write ``<model>-<dataset>.csv``, and ``.yaml`` with the best settings; the table and what to type, as text."""
    by_hash = {record.get("config_hash"): record for record in records}
    found = [by_hash.get(config_hash(config)) for config in search.configs]
    metric = search.configs[0]["valid_metric"].lower()
    scores = [((record or {}).get("valid") or {}).get(metric) for record in found]
    keys = list(dict.fromkeys(key for change in search.changes for key in change))
    head = ["trial", *keys, f"valid {metric}", "epochs", "train_seconds", "status", "run_id"]
    rows = [[number, *(change.get(key, search.configs[0][key]) for key in keys), score,
             *((record or {}).get(key) for key in ("epochs_done", "train_seconds")),
             (record or {}).get("status", "refused"), (record or {}).get("run_id")]
            for number, (change, record, score) in enumerate(zip(search.changes, found, scores))]
    name = f"{search.model}-{search.dataset}"
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *([csv_cell(cell) for cell in row] for row in rows)])
    write_atomically(folder / f"{name}.csv", buffer.getvalue())
    text = f"{search.model} on {search.dataset}\n" + tabulate([row[:-1] for row in rows], head[:-1], floatfmt=".4g")
    measured = [number for number, score in enumerate(scores) if score is not None]
    if not measured:
        return text + "\nnothing was measured\n"
    best = max(measured, key=lambda number: scores[number])
    write_atomically(folder / f"{name}.yaml", _settings(search, best, scores[best], metric, found[best]))
    return text + f"\ntrial {best} is best; its settings: --config_files={folder / name}.yaml\n"


def _settings(search: Search, best: int, score: float, metric: str, record: dict[str, Any]) -> str:
    settings = {key: value for key, value in {**search.given, **search.changes[best]}.items() if key not in _ELSEWHERE}
    if (minutes := settings.pop("max_train_minutes", None)) is not None:
        settings["epochs"] = record["epochs_done"]  # what the minutes were worth, the same on any machine
    settings["settings_label"] = "tuned"
    return (f"# {search.model} on {search.dataset}: the best of {len(search.changes)} trials"
            + (f" of up to {minutes} minutes" if minutes else "") + f", trial {best}, by validation {metric} "
            f"({score:.4f}).\n# Run {record['run_id']}, split {record['split_fingerprint']}.\n"
            + yaml.safe_dump(settings, sort_keys=True, allow_unicode=True))
