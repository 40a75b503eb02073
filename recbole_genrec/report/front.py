"""The table of a front page: every model of a data set, with interval, test and cost, from the records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from tabulate import tabulate

from recbole_genrec.evaluation.significance import PROBES, compare, settings_of

_HEAD = ["model", "items, backbone, settings", "seeds", "hit@10", "ndcg@10", "untied", "95 % interval",
         "to the best baseline", "p", "training, min", "users/s"]


def front_table(records: Sequence[Mapping[str, Any]], output_dir: Path, dataset: str, every: bool = False) -> str:
    """Markdown, best ndcg@10 first; ablations' variants and candidate rankings left out.

    Each model once, with the settings that validation ranks first, a leaky one and one that is told item numbers beside
    its texts apart; ``every`` row of a setting otherwise. Tests are corrected for all of them either way.

    Raises:
        UserError: no run of the data set has ndcg@10.
    """
    by_id = {record["run_id"]: record for record in records}
    table = compare(records, output_dir, "ndcg@10", dataset)
    table = table[table["variant"].isna() & table["candidates_fingerprint"].isna()]
    if not every:
        table = table.loc[_best_by_validation(table, by_id, output_dir)]
    lines = [_line(row, [by_id[run_id] for run_id in row["runs"].split()]) for row in table.to_dict("records")]
    return tabulate(lines, _HEAD, tablefmt="pipe", disable_numparse=True,
                    colalign=["left", "left", *["right"] * (len(_HEAD) - 2)]) + "\n"


def _best_by_validation(table: pd.DataFrame, by_id: Mapping[str, Mapping[str, Any]], output_dir: Path) -> list[int]:
    """Which rows of the table, in its order; no test figure is looked at.

    Settings are compared by their smallest seed, as searches have one; the oldest counts where there is no validation.
    """
    best: dict[tuple, tuple] = {}
    for number, row in table.iterrows():
        runs = row["runs"].split()
        first = min((by_id[run_id] for run_id in runs), key=lambda run: run["seed"])
        figure = (first.get("valid") or {}).get("ndcg@10")
        settings = settings_of({"config_file": output_dir / "runs" / runs[0] / "config.yaml"}) or {}
        numbers = bool(settings.get("item_embedding") or settings.get("item_prior"))
        place = (math.inf if figure is None else -figure, row["runs"], row["prompts"] or "", number)
        kind = (row["model"], bool(row["leaky"]), numbers)
        best[kind] = min(place, best.get(kind, place))
    return sorted(number for *_, number in best.values())


def _line(row: dict[str, Any], runs: list[Mapping[str, Any]]) -> list:
    """The cells of a row of :func:`~recbole_genrec.evaluation.significance.compare`."""
    first = row["prompts"] in (None, runs[0].get("prompts"))  # other prompts have figures of their own
    told = [run if first else run["other_prompts"][row["prompts"]] for run in runs]
    speed = [run["eval_users_per_second"] for run in runs if run.get("eval_users_per_second")] if first else []
    about = [row["item_index"], row["backbone"], row["prompts"] and f"{row['prompts']} prompt", row["settings_label"],
             "**leaky**" if row["leaky"] or row["model"] in PROBES else None]
    return [
        f"**{row['model']}**" if row["baseline"] else row["model"],
        ", ".join(filter(None, about)).replace("|", "/"),
        row["n_seeds"],
        _mean(told, "hit@10"),
        _number(row["mean"]) + ("" if math.isnan(row["sd"]) else f" ± {_number(row['sd'])}"),
        _mean(told, "ndcg@10_untied"),
        "" if math.isnan(row["ci_low"]) else f"{_number(row['ci_low'])}-{_number(row['ci_high'])}",
        "best baseline" if row["baseline"] else _signed(row["difference"]) + row["mark"].replace("*", "\\*"),
        "" if math.isnan(row["p_t"]) else f"{max(row['p_t'], row['p_wilcoxon']):.2g}",
        f"{fmean(run.get('train_seconds') or 0 for run in runs) / 60:.1f}",
        f"{fmean(speed):,.0f}" if speed else ""]


def _mean(runs: list[Mapping[str, Any]], metric: str) -> str:
    values = [run.get(metric) for run in runs]
    return "" if None in values else _number(fmean(values))


def _number(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.4f}".replace("0.", ".", 1)
