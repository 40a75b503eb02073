"""The table of an ablation, derived from the records of its runs; nothing is typed by hand or kept beside them.

The p-value is of a two-sided paired t-test over users: each user's ndcg@10, averaged over the seeds that the variant
and the reference share. It tells whether other users like these would see the difference, given the trained models;
how much another seed changes it is what the standard deviation over seeds tells.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_genrec.ablation import Ablation
from recbole_genrec.evaluation.significance import holm, mark, over_seeds, paired_tests, user_gains
from recbole_genrec.files import csv_cell

#: Metric of a table -> how it is taken from a record.
_METRICS = {
    "ndcg@10": lambda record: record.get("ndcg@10"),
    "hit@10": lambda record: record.get("hit@10"),
    "valid_ndcg@10": lambda record: (record.get("valid") or {}).get("ndcg@10"),
}


@dataclass
class Row:
    """One variant.

    Attributes:
        variant: its name.
        settings: what it sets.
        status: ``ok``, or what became of it.
        values: metric -> seed -> value.
        runs: the ids of the runs that the values are from.
        difference: of ndcg@10, to the reference, over the seeds that both have; None: no such seed.
        p: of that difference; None where users cannot be paired.
        p_holm: corrected for the number of variants in the table.
    """

    variant: str
    settings: dict[str, Any]
    status: str
    values: dict[str, dict[int, float]]
    runs: list[str]
    difference: float | None = None
    p: float | None = None
    p_holm: float | None = None

    def mean(self, metric: str) -> float | None:
        """Over seeds; None without a run."""
        values = list(self.values[metric].values())
        return float(np.mean(values)) if values else None

    def sd(self, metric: str) -> float | None:
        """Of the sample of seeds; None with fewer than two."""
        values = list(self.values[metric].values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def mark(self) -> str:
        """Stars for significance."""
        return mark(self.p_holm)


@dataclass
class Table:
    """An ablation of one model on one data set; the first row is the reference.

    Attributes:
        users: how many the tests are over, None without a test.
        left_out: runs of the same ablation that have other settings or another split than the newest.
    """

    ablation: Ablation
    model: str
    dataset: str
    rows: list[Row]
    users: int | None
    left_out: int

    @property
    def title(self) -> str:
        return f"{self.ablation.name}: {self.model} on {self.dataset}"

    def as_text(self, style: str = "simple") -> str:
        """For people, in one of tabulate's styles."""
        head = ["variant", "seeds", "ndcg@10", "hit@10", "valid ndcg@10", "difference", "p", "", "status"]
        lines = [[row.variant, len(row.runs), *(_mean_sd(row, metric) for metric in _METRICS),
                  "reference" if row is self.rows[0] else "" if row.difference is None else f"{row.difference:+.4f}",
                  "" if row.p is None else f"{row.p:.2g}", row.mark, row.status.replace("|", "/")]
                 for row in self.rows]
        return tabulate(lines, head, tablefmt=style, disable_numparse=True,
                        colalign=["left", "right", *["left"] * 3, "right", "right", "left", "left"])

    def notes(self) -> list[str]:
        """What the reader of the table has to know."""
        notes = [f"Mean ± standard deviation over seeds; difference of ndcg@10 to '{self.rows[0].variant}' over the "
                 "seeds that both have."]
        if self.users:
            notes.append(f"p: two-sided paired t-test over {self.users:,} users' ndcg@10, averaged over those seeds, "
                         "which takes the trained models as given; "
                         "* < .05, ** < .01, *** < .001 after Holm's correction for "
                         f"{sum(row.p is not None for row in self.rows)} comparison(s).")
        if self.left_out:
            notes.append(f"{self.left_out} older run(s) with other settings or another split are left out.")
        return notes

    def as_markdown(self) -> str:
        """The ``.md`` file."""
        settings = "\n".join(f"- `{row.variant}`: " + (", ".join(f"`{key}: {json.dumps(value)}`" for key, value
                                                                 in row.settings.items()) or "as set")
                             for row in self.rows)
        return (f"# {self.title}\n\n{self.ablation.description}\n\n{self.as_text('github')}\n\n"
                + "\n".join(self.notes()) + f"\n\n{settings}\n")

    def as_csv(self) -> str:
        """The ``.csv`` file: every figure in full, and the runs that it is from."""
        numbers = [name for metric in _METRICS for name in (metric, f"{metric}_sd")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["ablation", "model", "dataset", "variant", *([self.ablation.x] if self.ablation.x else []),
                         "status", "seeds", *numbers, "difference", "p", "p_holm", "users", "runs"])
        for row in self.rows:
            values = [value for metric in _METRICS for value in (row.mean(metric), row.sd(metric))]
            cells = [self.ablation.name, self.model, self.dataset, row.variant,
                     *([row.settings[self.ablation.x]] if self.ablation.x else []), row.status,
                     " ".join(map(str, row.values["ndcg@10"])), *values, row.difference, row.p, row.p_holm,
                     self.users if row.p is not None else None, " ".join(row.runs)]
            writer.writerow(map(csv_cell, cells))
        return text.getvalue()


def compare(ablation: Ablation, model: str, dataset: str, records: list[dict[str, Any]], output_dir: Path) -> Table:
    """The table of an ablation of one model on one data set.

    The newest run says which settings and which split the table is of; a run that differs in more than its variant and
    its seed is left out. Of several good runs of a variant with one seed, the newest counts.

    Args:
        ablation: the ablation.
        model: the model.
        dataset: the data set.
        records: oldest first, as :func:`~recbole_genrec.records.read_records` gives them.
        output_dir: where ``runs/`` is.
    """
    mine = [record for record in records
            if record.get("variant") in ablation.variants and isinstance(record.get("seed"), int)
            and (record.get("ablation"), record.get("model"), record.get("dataset")) == (ablation.name, model, dataset)]
    same = [record for record in mine if record.get("reference_hash") == mine[-1].get("reference_hash")]
    split = next((record.get("split_fingerprint") for record in reversed(same) if _good(record)), None)
    same = [record for record in same if record.get("split_fingerprint", split) == split]
    newest = {record["variant"]: record.get("variant_hash") for record in same}
    same = [record for record in same if record.get("variant_hash") == newest[record["variant"]]]

    good: dict[str, dict[int, dict]] = {variant: {} for variant in ablation.variants}
    bad: dict[str, dict[int, dict]] = {variant: {} for variant in ablation.variants}
    for record in same:
        (good if _good(record) else bad)[record["variant"]][record["seed"]] = record

    rows = [_row(variant, settings, good[variant], bad[variant], ablation.skipped(model).get(variant))
            for variant, settings in ablation.variants.items()]
    users = None
    for row in rows[1:]:
        shared = sorted(good[row.variant].keys() & good[ablation.reference].keys())
        if not shared:
            continue
        pair = [[good[variant][seed] for seed in shared] for variant in (row.variant, ablation.reference)]
        row.difference = float(np.mean([one["ndcg@10"] - other["ndcg@10"] for one, other in zip(*pair)]))
        row.p, count = _paired_test(*([output_dir / "runs" / record["run_id"] for record in side] for side in pair))
        users = count or users
    tested = [row for row in rows if row.p is not None]
    for row, corrected in zip(tested, holm([row.p for row in tested])):
        row.p_holm = corrected
    return Table(ablation, model, dataset, rows, users, len(mine) - len(same))


def _good(record: dict[str, Any]) -> bool:
    return record.get("status") == "ok" and None not in (record.get("ndcg@10"), record.get("hit@10"))


def _row(variant: str, settings: dict, good: dict[int, dict], bad: dict[int, dict], skipped: str | None) -> Row:
    found = [good[seed] for seed in sorted(good)]
    said = ["ok"] if found else []
    said += ["LEAKY: its item index gives test items away"] * any(record.get("leaky") for record in found)
    said += [f"seed {seed} {record.get('status')}: {record.get('reason')}" for seed, record in sorted(bad.items())
             if seed not in good]
    if not said:
        said = [f"skipped: {skipped}" if skipped else "no run"]
    values = {metric: {record["seed"]: value(record) for record in found if value(record) is not None}
              for metric, value in _METRICS.items()}
    return Row(variant, settings, " ".join("; ".join(said).split()), values, [record["run_id"] for record in found])


def _paired_test(one: list[Path], other: list[Path]) -> tuple[float | None, int | None]:
    """p-value and number of users; None where a list of users is gone or is not the same for all runs."""
    sides = [over_seeds(user_gains(run_dir / "per_user.parquet", "ndcg@10") for run_dir in side)
             for side in (one, other)]
    p, _ = paired_tests(*sides)
    return p, None if p is None else len(sides[0])


def _mean_sd(row: Row, metric: str) -> str:
    mean, sd = row.mean(metric), row.sd(metric)
    return "" if mean is None else f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"
