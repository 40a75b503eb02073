"""From records to plain data, ready for JSON, that the page and the tables both show; all arithmetic is done here.

A table is of one setting: rows of other data sets, splits, masking policies or candidates are never in it, and the
variants of an ablation have a table of their own. A row is what differs in the seed alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_genrec.errors import UserError
from recbole_genrec.evaluation import audit, significance
from recbole_genrec.evaluation.significance import FREE, GROUP, PROBES, SETTING, rows_with_files, settings_of
from recbole_genrec.report import details
from recbole_genrec.report.columns import COLUMNS, QUALITY, quality

#: Where runs of one group differ in several settings, these are told first.
_TOLD_FIRST = ("objective", "layout", "decode", "norm")
_DIGITS = 4


def collect(records: list[dict[str, Any]], output_dir: Path) -> dict[str, Any]:
    """Everything that a report shows.

    Args:
        records: oldest first, as :func:`~recbole_genrec.report.reading.read` gives them.
        output_dir: where ``runs/`` may be.
    Returns:
        ``title``; ``tables``, each with its ``columns`` and its ``rows``, best first; ``failed``; ``runs``, a count;
        ``newest``, a time; ``versions``. The same records give the same data.
    """
    good = [row for record in records for row in rows_with_files(record, output_dir / "runs" / record["run_id"])]
    tables: dict[tuple, list[dict]] = {}
    for row in good:
        family = (row["model"], row["ablation"]) if row["variant"] is not None else ("", "")
        tables.setdefault((*(row[key] for key in SETTING), *family), []).append(row)
    compared = _compare(records, output_dir, quality(good))
    name = output_dir.resolve().name or "results"
    published = audit.published().to_dict("records")
    # Ablations after the models of their data set; several splits of a data set one after the other.
    order = sorted(tables, key=lambda key: [str(part) for part in key])
    return {
        "title": f"Leaderboard: {name}",
        "tables": [_table(key, tables[key], compared, name, published if key[len(SETTING):] == ("", "") else [])
                   for key in order],
        "failed": [_failed(record, name) for record in records if record.get("status") != "ok"],
        "runs": len({record["run_id"] for record in records}),
        "newest": max((str(record.get("timestamp") or "") for record in records), default=""),
        "versions": sorted({str(record["version"]) for record in records if record.get("version")}),
    }


def _table(key: tuple, runs: list[dict], compared: dict[str, dict], name: str, published: list[dict]) -> dict[str, Any]:
    """One table.

    Args:
        key: data set, split, masking, candidates (None: full ranking), and of an ablation the model and the ablation's
            name.
        runs: its runs, oldest first.
        compared: metric -> a group's set of prompts and its run ids -> its row of ``significance.compare``.
        name: of the output folder, for commands.
        published: rows of papers, of any data set.
    """
    dataset, split, masked, listed, model, ablation = key
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault(tuple(run[part] for part in GROUP), []).append(run)
    rows = []
    for members in groups.values():
        clusters = _clusters(members)
        notes = _differences(clusters)
        rows += [_row(cluster, note, number > 0, compared, name)
                 for number, (cluster, note) in enumerate(zip(clusters, notes))]
    metrics = quality(runs)
    main = next((metric for metric in ("ndcg@10", *metrics) if metric in metrics), None)
    rows.sort(key=lambda row: (-row["values"].get(main, -1), row["label"], row["note"]))
    for metric in metrics:
        _rank(rows, metric)
    columns = [column for column in [*(QUALITY._replace(key=metric, label=metric) for metric in metrics), *COLUMNS]
               if any(row["values"].get(column.key) is not None for row in rows)]
    newest = runs[-1]
    return {
        "dataset": str(dataset), "split": split, "mask_history": masked, "model": model, "ablation": ablation,
        "title": (f"{dataset}: {ablation}, {model}" if ablation else str(dataset))
                 + (f", {newest.get('candidates')} candidates a user" if listed else ""),
        "users": next((run["users"] for run in reversed(runs) if run.get("users")), None), "main": main,
        "baseline": {metric: row["label"] for metric in metrics for row in rows if row["baseline"].get(metric)},
        "columns": [column._asdict() for column in columns], "rows": rows,
        "published": _published(published, str(dataset)),
        "leaks": details.leak_checks(next((run["leakage"] for run in reversed(runs) if run.get("leakage")), None)),
    }


def _row(runs: list[dict], note: str, older: bool, compared: dict[str, dict], name: str) -> dict[str, Any]:
    """One row: runs that differ in the seed alone, newest first; of several with one seed the newest counts."""
    newest = runs[0]
    counted = list({run.get("seed"): run for run in reversed(runs)}.values())  # the last one of a seed wins
    for run in counted:
        for figure in ("ndcg", "random_ndcg"):
            run[f"index_leak_{figure}"] = (run.get("index_leak") or {}).get(figure)
    values, deviations = {}, {}
    for key in [*quality(counted), *(column.key for column in COLUMNS)]:
        found = [run[key] for run in counted if isinstance(run.get(key), (int, float))]
        if found:
            values[key] = statistics.fmean(found)
        if len(found) > 1:
            deviations[key] = statistics.stdev(found)
    same = (newest["prompts"], frozenset(run["run_id"] for run in counted))
    tests = {metric: groups[same] for metric, groups in compared.items() if same in groups}
    broken = [verdict for run in counted if (verdict := _verdict(run)) != "ok"]
    probe = newest["model"] in PROBES
    return {
        "label": str(newest["variant"] or newest["model"]), "model": str(newest["model"]),
        "note": " · ".join(str(fact) for fact in (
            newest["settings_label"], newest["backbone"], newest["prompts"] and f"{newest['prompts']} prompts",
            newest["item_index"] != "title" and newest["item_index"], note) if fact),
        "kind": "probe" if probe else "baseline" if newest["backbone"] is None else "generative",
        "leaky": any(bool(run.get("leaky")) for run in runs), "older": older, "impossible": "; ".join(broken),
        "seeds": [run.get("seed") for run in counted], "values": values, "sd": deviations, "best": {},
        "marks": {metric: test["mark"] for metric, test in tests.items() if test["mark"]},
        "interval": {metric: [test["ci_low"], test["ci_high"]] for metric, test in tests.items()
                     if test["ci_low"] == test["ci_low"]},  # NaN where users are not known
        "baseline": {metric: True for metric, test in tests.items() if test["baseline"]},
        "curve": details.curve(newest), "slices": details.slices(counted, quality(counted)),
        "validity": details.validity(values),
        "runs": [details.run(run, name, run in counted) for run in sorted(runs, key=lambda run: str(run.get("seed")))],
    }


def _rank(rows: list[dict], metric: str) -> None:
    """Mark the best (1) and the second (2) value as printed. What is no fair result takes no place."""
    fair = [row for row in rows if is_fair(row) and metric in row["values"]]
    printed = sorted({round(row["values"][metric], _DIGITS) for row in fair}, reverse=True)[:2]
    for row in fair:
        if (value := round(row["values"][metric], _DIGITS)) in printed:
            row["best"][metric] = printed.index(value) + 1


def is_fair(row: dict[str, Any]) -> bool:
    """Whether a row may be called the best: not if it leaks, probes a leak, or cannot be."""
    return not row["leaky"] and row["kind"] != "probe" and not row["impossible"]


# -------------------------------------------------------------------------------------------- which runs are one row

def _clusters(runs: list[dict]) -> list[list[dict]]:
    """Runs of one group apart by settings, the seed left out: newest cluster first, newest run first.

    Settings that only one of two runs knows (an older version's) are taken to be equal. Where ``config.yaml`` is not
    there, what the leaderboard says has to do, and runs that share a seed are not averaged with any other.
    """
    known = [settings_of(run) for run in runs]
    repeated = len({run.get("seed") for run in runs}) < len({(run.get("seed"), run.get("config_hash")) for run in runs})
    clusters: list[tuple[dict, list[dict]]] = []
    for run, settings in reversed(list(zip(runs, known))):
        if settings is None:
            settings = {key: run[key] for key in _TOLD_FIRST if run.get(key) is not None}
            if repeated:
                settings["config_hash"] = run.get("config_hash")
        settings = {key: value for key, value in settings.items() if key not in FREE}
        home = next((members for others, members in clusters
                     if all(settings[key] == others[key] for key in settings.keys() & others.keys())), None)
        if home is None:
            clusters.append((settings, home := []))
        run["settings"] = settings
        home.append(run)
    return [members for _, members in clusters]


def _differences(clusters: list[list[dict]]) -> list[str]:
    """For each cluster the settings that tell it from the others, or nothing where there is one."""
    if len(clusters) == 1:
        return [""]
    settings = [cluster[0]["settings"] for cluster in clusters]
    keys = sorted({key for one in settings for key in one if any(one[key] != other[key] for other in settings
                                                                  if key in other)},
                  key=lambda key: (_TOLD_FIRST.index(key) if key in _TOLD_FIRST else len(_TOLD_FIRST), key))
    return [", ".join(f"{key}: {one[key]}" for key in [key for key in keys if key in one][:3]) for one in settings]


# ------------------------------------------------------------------------------------------------------ other sources

def _compare(records: list[dict], output_dir: Path, metrics: Iterable[str]) -> dict[str, dict[tuple, dict]]:
    compared = {}
    for metric in metrics:
        try:
            table = significance.compare(records, output_dir, metric)
        except UserError:  # not hit or ndcg: shown, not tested
            continue
        compared[metric] = {(row["prompts"], frozenset(row["runs"].split(" "))): row
                            for row in table.to_dict("records")}
    return compared


def _verdict(run: dict) -> str:
    """The audit's: from the record, or of what the leaderboard shows."""
    return run.get("audit") or audit.of_record({metric: run[metric] for metric in quality([run])})


def _published(published: list[dict], dataset: str) -> list[dict[str, Any]]:
    """The published tables of a data set: ``source`` and ``rows``."""
    sources: dict[str, list[dict]] = {}
    for row in published:
        if row["dataset"] == dataset:
            sources.setdefault(row["source"], []).append(
                {"label": row["model"], "values": {name: float(text) for name, text in row["metrics"].items()},
                 "impossible": row["broken"]})
    return [{"source": source, "rows": rows} for source, rows in sources.items()]


def _failed(record: dict, name: str) -> dict[str, Any]:
    shown = {key: record.get(key) for key in ("run_id", "dataset", "model", "seed", "variant", "status", "reason")}
    return {**shown, "command": details.command(record, name)}
