"""Several runs in one call: everything is checked first, then run one after another; a failure stops nothing."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_genrec.ablation import Ablation, read_ablation
from recbole_genrec.benchmark import config_hash, run
from recbole_genrec.config import Config
from recbole_genrec.data.files import check_dataset
from recbole_genrec.errors import UserError
from recbole_genrec.files import writable_folder
from recbole_genrec.model.registry import get_model
from recbole_genrec.records import rows_of, update_leaderboard
from recbole_genrec.running import failures, parallel, termination
from recbole_genrec.running.runs import Busy
from recbole_genrec.running.termination import Terminated
from recbole_genrec.settings import check_name, merge, read_yaml
from recbole_genrec.validation import check_keys, known_keys

log = logging.getLogger("recbole_genrec")


@dataclass
class Plan:
    """What a call asks for, checked.

    Attributes:
        runs: configuration and labels of each run, in the order in which they will be carried out.
        output_dir: where their records go; it can be written.
        ablation: what they compare, if anything.
        pairs: model and data set of each table of the ablation.
    """

    runs: list[tuple[Config, dict[str, Any]]]
    output_dir: Path
    ablation: Ablation | None
    pairs: list[tuple[str, str]]


def plan_suite(models: list[str], datasets: list[str], seeds: list[int], config_files: list[str],
               overrides: dict[str, Any], ablation: str | None = None) -> Plan:
    """Every model on every data set with every seed; with the name of an ablation, each of its variants so.

    Raises:
        UserError: a mistake in the call, found before anything is trained.
    """
    for model in models:
        get_model(model)
    compared = None if ablation is None else read_ablation(ablation)
    given = gather_settings(models, datasets, config_files, overrides)
    given.setdefault("show_progress", sys.stderr.isatty())
    if compared is None:
        plan = [(config, {}) for config in plan_runs(models, datasets, seeds, given)]
    else:
        plan = plan_ablation(compared, models, datasets, seeds, given)
    output_dir = writable_folder(plan[0][0]["output_dir"], *(["ablations"] if compared else []))
    return Plan(plan, output_dir, compared, [(model, dataset) for dataset in datasets for model in models])


def carry_out(plan: Plan, leave_busy: bool = False) -> int:
    """Carry out the runs of a plan and print the table; of an ablation, the comparison too.

    Args:
        leave_busy: leave runs that another process is at to it, instead of waiting for them.
    Returns:
        0, or 1 if a run failed (its record says why), or 2 if one was refused.
    """
    if not parallel.is_main():
        log.setLevel(logging.ERROR)
    with parallel.together():
        records, mistakes = carry_out_runs(plan.runs, plan.output_dir, leave_busy)
    if not parallel.is_main():
        return 0
    if not records:
        return 2 if mistakes else 0
    settings, output_dir, compared = plan.runs[0][0], plan.output_dir, plan.ablation
    measured = [f"{metric.lower()}@{k}" for k in settings["topk"] for metric in settings["metrics"]]
    rows = [row for record in records for row in rows_of(record)]
    told = [name for name, key in (("prompts", "other_prompts"), ("leaky", "leaky"), ("candidates", "candidates"))
            if any(record.get(key) for record in records)]
    shown = ["dataset", "model", *(["variant"] if compared else []), "seed", "status", *told, *measured,
             "train_seconds", "eval_users_per_second"]
    print(tabulate([[row.get(column) for column in shown] for row in rows], headers=shown, floatfmt=".4f"))
    print(f"\nrecords: {output_dir / 'runs'}   leaderboard: {output_dir / 'leaderboard.csv'}")
    if compared is not None:
        from recbole_genrec.evaluation.ablation_report import report

        report(compared, output_dir, plan.pairs)
    return 1 if any(record["status"] != "ok" for record in records) else 2 if mistakes else 0


def carry_out_runs(plan: list[tuple[Config, dict[str, Any]]], output_dir: Path,
                   leave_busy: bool) -> tuple[list[dict[str, Any]], int]:
    """Run after run. Those that another process is at come last: it may be done with them by then.

    Args:
        plan: of each run its configuration, and what else :func:`recbole_genrec.benchmark.run` is told.
        output_dir: where their records go.
        leave_busy: as in :func:`carry_out`.
    Returns:
        the records, and how many runs were refused.
    """
    records, mistakes = [], 0
    queue = [(number, config, labels, False) for number, (config, labels) in enumerate(plan, 1)]
    while queue:
        number, config, labels, wait = queue.pop(0)
        log.info("[%d/%d] %s on %s, seed %s%s", number, len(plan), config["model"], config["dataset"], config["seed"],
                 f", {labels['variant']}" if "variant" in labels else "")
        try:
            record = run(config, output_dir, wait, **labels)
        except Busy as busy:
            log.info("%s; it %s", busy, "is left to it" if leave_busy else "comes last")
            if not leave_busy:
                queue.append((number, config, labels, True))
            continue
        except UserError as error:  # found when the data were read; the other runs go on
            if parallel.is_main():
                print("error:", *str(error).split(), file=sys.stderr)
            mistakes += 1
            continue
        except OSError as error:  # not even the record could be written
            reason = failures.reason(error)
            log.error("%s on %s failed: %s", config["model"], config["dataset"], reason)
            record = {"dataset": config["dataset"], "model": config["model"], **labels, "status": "failed",
                      "reason": reason}
        except (KeyboardInterrupt, Terminated):
            _leaderboard(output_dir)
            log.warning("stopped: the same command goes on from the last checkpoint")
            raise
        else:
            if record["status"] != "ok":
                log.warning("%s on %s failed: %s", record["model"], record["dataset"], record["reason"])
            _leaderboard(output_dir)
        records.append(record)
        if record["status"] != "ok" and parallel.size() > 1 and not failures.is_everybodys(record):
            os._exit(1)  # others may be waiting for this process, and would for ever: torchrun now ends them
        termination.raise_pending()  # a signal that came while something else ended the run
    return records, mistakes


def gather_settings(models: list[str], datasets: list[str], config_files: list[str],
                    overrides: dict[str, Any]) -> dict[str, Any]:
    """What the user set, in the files and over them.

    Raises:
        UserError: a name that no data set has, a file that cannot be read, a key that none of the models reads.
    """
    for dataset in datasets:
        check_name(dataset)
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


def plan_ablation(ablation: Ablation, models: list[str], datasets: list[str], seeds: list[int],
                  given: dict[str, Any]) -> list[tuple[Config, dict[str, Any]]]:
    """One checked configuration a run of an ablation, in the order in which they will run, and its record's labels.

    What a variant sets goes over what the user set. The labels tell runs that belong in one table: hashes, seed left
    out, of the reference's settings (``reference_hash``) and of the variant's own (``variant_hash``).

    Raises:
        UserError: also for a model that the ablation is not for, a key that nothing reads, two variants that are the
            same run under the user's settings.
    """
    ablation.check_models(models)
    plan = []
    for dataset in datasets:
        for model in models:
            ablation.check_keys(known_keys(model, dataset))
            plan_runs([model], [dataset], [], given)  # the user's own mistakes come first, and as they are
            for seed in seeds or [None]:
                hashes: dict[str, str] = {}
                for variant, settings in ablation.variants.items():
                    if variant in ablation.skipped(model):
                        continue
                    try:
                        config, = plan_runs([model], [dataset], [] if seed is None else [seed], merge(given, settings))
                    except UserError as error:
                        raise UserError(f"ablation '{ablation.name}', variant '{variant}': {error}") from None
                    ablation.check_config(config)
                    own = config_hash(config, without={"seed"})
                    if own in hashes:
                        raise UserError(f"ablation '{ablation.name}': variant '{variant}' is the same as "
                                        f"'{hashes[own]}' under the settings given")
                    hashes[own] = variant
                    plan.append((config, {"ablation": ablation.name, "variant": variant,
                                          "reference_hash": next(iter(hashes)), "variant_hash": own}))
    return plan


def _leaderboard(output_dir: Path) -> None:
    if not parallel.is_main():
        return
    try:
        _, warnings = update_leaderboard(output_dir)
    except OSError as error:
        warnings = [f"the leaderboard could not be written: {failures.reason(error)}; the next run writes it"]
    for warning in warnings:
        log.warning("warning: %s", warning)
