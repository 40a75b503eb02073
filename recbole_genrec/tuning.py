"""A search for settings: a few trials, equally long for every model, judged by validation alone.

What a search may try is data: ``properties/search/<model>.yaml`` lists the values of each key. The first trial has the
settings as they are, the others values drawn by chance, the same for the same seed. No trial looks at a test user.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sklearn.model_selection import ParameterGrid, ParameterSampler
from tabulate import tabulate

from recbole_genrec.config import Config
from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.files import csv_cell, writable_folder, write_atomically
from recbole_genrec.running import parallel
from recbole_genrec.settings import named_file, read_yaml
from recbole_genrec.suite import carry_out_runs, gather_settings, plan_runs
from recbole_genrec.trainer import two_stages
from recbole_genrec.validation import known_keys

log = logging.getLogger("recbole_genrec")

#: Given settings that are none of the model's: they stay out of what a search writes.
_ELSEWHERE = {"output_dir", "data_path", "show_progress", "seed", "force", "resume"}


@dataclass
class Search:
    """The trials of one model on one data set.

    Attributes:
        model, dataset: their names.
        given: what the user set and this model reads.
        changes: of each trial, what it sets beside that; the first sets nothing.
        configs: of each trial, checked.
    """

    model: str
    dataset: str
    given: dict[str, Any]
    changes: list[dict[str, Any]]
    configs: list[Config]


def plan_searches(models: list[str], datasets: list[str], trials: int, config_files: list[str],
                  overrides: dict[str, Any], space: str | None = None) -> list[Search]:
    """The searches of every model on every data set, each of their trials checked.

    Args:
        trials: how many a model, the settings as they are included; fewer if a space holds no more.
        space: a name in ``properties/search`` or a YAML file; None: that of each model's name.
    Raises:
        UserError: a mistake in the call or in a space, found before anything is trained.
    """
    if trials < 1:
        raise UserError(f"--trials={trials} must be at least 1")
    if parallel.size() > 1:
        raise UserError("a search runs in one process: start it without torchrun")
    given = {"show_progress": sys.stderr.isatty(), **gather_settings(models, datasets, config_files, overrides)}
    return [_plan(model, dataset, trials, given, space or model) for dataset in datasets for model in models]


def _plan(model: str, dataset: str, trials: int, given: dict[str, Any], space_name: str) -> Search:
    known = known_keys(model, dataset)
    given = {key: value for key, value in given.items() if key in known}
    untouched, = plan_runs([model], [dataset], [], given)
    if getattr(untouched.model_class, "evaluation_only", False) or not untouched["eval_step"]:
        raise UserError(f"{model} with eval_step={untouched['eval_step']} is never validated: there is nothing to "
                        "search by")
    # What the user sets stays as it is.
    space = {key: values for key, values in read_space(space_name, known).items() if key not in given}
    drawn = ParameterSampler(space, min(trials, len(ParameterGrid(space))), random_state=untouched["seed"])
    # One of the draws may be the settings as they are: then there are others enough.
    changes = [{}, *(change for change in drawn if any(untouched[key] != value for key, value in change.items()))]
    changes = changes[:trials]
    configs = [untouched, *(plan_runs([model], [dataset], [], {**given, **change})[0] for change in changes[1:])]
    return Search(model, dataset, given, changes, configs)


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
        0, or 1 if a trial failed or a search measured nothing, or 2 if a trial was refused.
    """
    folder = writable_folder(Path(output_dir) / "tuning")
    failed = refused = False
    for search in searches:
        records = []
        for number, config in enumerate(search.configs):
            log.info("trial %d of %d", number + 1, len(search.configs))
            found, mistakes = carry_out_runs([(config, {"test": False})], folder, False)
            records.append(found[0] if found else {"status": "refused"})
            failed |= not mistakes and records[-1]["status"] != "ok"
            refused |= bool(mistakes)
        text, best = report(search, records, folder)
        failed |= best is None
        print(text)
    return 1 if failed else 2 if refused else 0


def report(search: Search, records: list[dict[str, Any]], folder: Path) -> tuple[str, int | None]:
    """Write ``<model>-<dataset>.csv``, and ``.yaml`` with the best settings.

    Args:
        records: one a trial.
    Returns:
        the table and what to type, as text; the best trial, None if nothing was measured.
    """
    metric = search.configs[0]["valid_metric"].lower()
    scores = [(record.get("valid") or {}).get(metric) for record in records]
    keys = list(dict.fromkeys(key for change in search.changes for key in change))
    head = ["trial", *keys, f"valid {metric}", "epochs", "train_seconds", "status", "run_id"]
    rows = [[number, *(change.get(key, search.configs[0][key]) for key in keys), score,
             *(record.get(key) for key in ("epochs_done", "train_seconds", "status", "run_id"))]
            for number, (change, record, score) in enumerate(zip(search.changes, records, scores))]
    name = f"{search.model}-{search.dataset}"
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *([csv_cell(cell) for cell in row] for row in rows)])
    write_atomically(folder / f"{name}.csv", buffer.getvalue())
    text = f"{search.model} on {search.dataset}\n" + tabulate([row[:-1] for row in rows], head[:-1], floatfmt=".4g")
    measured = [number for number, score in enumerate(scores) if score is not None]
    if not measured:
        return text + "\nnothing was measured\n", None
    best = (max if search.configs[0]["valid_metric_bigger"] else min)(measured, key=lambda number: scores[number])
    write_atomically(folder / f"{name}.yaml", _settings(search, best, scores[best], metric, records[best]))
    return text + f"\ntrial {best} is best; its settings: --config_files={folder / name}.yaml\n", best


def _settings(search: Search, best: int, score: float, metric: str, record: dict[str, Any]) -> str:
    settings = {key: value for key, value in {**search.given, **search.changes[best]}.items() if key not in _ELSEWHERE}
    minutes = search.given.get("max_train_minutes")
    if minutes and (epochs := epochs_for_minutes(search.configs[best], record)) is not None:
        del settings["max_train_minutes"]
        settings["epochs"] = epochs
    settings["settings_label"] = "tuned"
    return (f"# {search.model} on {search.dataset}: the best of {len(search.changes)} trials"
            + (f" of up to {minutes} minutes" if minutes else "") + f", trial {best}, by validation {metric} "
            f"({score:.4f}).\n# Run {record['run_id']}, split {record['split_fingerprint']}.\n"
            + yaml.safe_dump(settings, sort_keys=True, allow_unicode=True))


def epochs_for_minutes(config: Config, record: dict[str, Any]) -> int | None:
    """What a run's ``max_train_minutes`` were worth, in epochs: on any machine the same training.

    None where epochs are not the same training: the schedule goes by the epochs planned, or there are two stages.
    """
    scheduled = config["lr_scheduler_type"] not in (None, "constant")  # a warm-up too
    return None if scheduled or two_stages(config) else record.get("epochs_done")
