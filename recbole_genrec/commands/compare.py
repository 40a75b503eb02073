"""``recbole-genrec compare``: models against the best baseline, by the records."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from tabulate import tabulate

from recbole_genrec.errors import UserError

_EXAMPLES = """examples:
  %(prog)s
  %(prog)s --dataset=ml-100k --metric=hit@10
  %(prog)s --dataset=ml-100k --front

Runs that differ in the seed alone are a row; of those with one settings_label the newest settings count.
Exit code: 0 done, 2 a mistake in the call (one line says which).
"""


def add(commands) -> None:
    compare = commands.add_parser("compare", help="compare models with the best baseline, from records",
                                  allow_abbrev=False, description="Means with confidence intervals, and paired tests "
                                  "of each model against the best baseline. Nothing is trained.",
                                  epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    compare.add_argument("--output_dir", default="results", help="where the records are, and where significance.csv "
                                                                 "goes (default results)")
    compare.add_argument("--dataset", default=None, help="of this data set only")
    compare.add_argument("--metric", default="ndcg@10", help="hit@K or ndcg@K (default ndcg@10)")
    compare.add_argument("--front", action="store_true", help="print the table of a front page instead, as Markdown, "
                                                              "with costs: each model as validation ranks its settings "
                                                              "first; needs --dataset")
    compare.add_argument("--every", action="store_true", help="with --front: every setting of every model")
    compare.set_defaults(handler=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    """Print each model against the best baseline, a table a split, and write ``<output_dir>/significance.csv``."""
    from recbole_genrec.evaluation.significance import SETTING, compare
    from recbole_genrec.files import csv_cell, write_atomically
    from recbole_genrec.records import read_records
    from recbole_genrec.report.front import front_table

    output_dir, metric = Path(arguments.output_dir).expanduser(), arguments.metric
    records, broken = read_records(output_dir)
    for path in broken:
        print(f"warning: {path} cannot be read and is left out", file=sys.stderr)
    if arguments.front:
        if arguments.dataset is None or metric != "ndcg@10":
            raise UserError("--front needs --dataset, and has hit@10 and ndcg@10 only")
        print(front_table(records, output_dir, arguments.dataset, arguments.every), end="")
        return 0
    if arguments.every:
        raise UserError("--every goes with --front; without it every setting is a row")
    table = compare(records, output_dir, metric, arguments.dataset)
    path = output_dir / "significance.csv"
    write_atomically(path, table.assign(metric=metric).map(csv_cell).to_csv(index=False, lineterminator="\n"))
    models = table[table["variant"].isna()]
    for (name, split, masked, listed), rows in models.groupby(SETTING, dropna=False):
        users = rows["users"].max()
        print(f"\n{name}, split {split}, history {'masked' if masked else 'not masked'}"
              + (f", candidates {listed}" if isinstance(listed, str) else "")
              + ("" if math.isnan(users) else f", {int(users):,} users") + f": {metric}\n")
        print(_lines(rows))
    print("\nMean ± standard deviation over seeds; 95 % bootstrap interval over users. p: paired t-test and Wilcoxon's "
          "signed-rank\ntest over users' gains (averaged over seeds) against the best model without a "
          "language-model backbone,\ncorrected by Holm's method; * < .05, ** < .01, *** < .001 in both tests, for "
          "models that are better.")
    if left_out := int(table["left_out"].sum()):
        print(f"{left_out} older run(s) with other settings, or repeated with the same seed, are left out.")
    if variants := len(table) - len(models):
        print(f"{variants} variant(s) of ablations are in the file only; see recbole-genrec ablation.")
    print("written:", path)
    return 0


def _lines(rows) -> str:
    optional = [column for column in ("settings_label", "backbone", "item_index", "prompts")
                if rows[column].notna().any()]
    lines = []
    for row in rows.to_dict("records"):
        mean = f"{row['mean']:.4f}" + ("" if math.isnan(row["sd"]) else f" ± {row['sd']:.4f}")
        note = "best baseline" if row["baseline"] else "leaky" if row["leaky"] else ""
        lines.append([row["model"], *(row[column] or "" for column in optional), row["n_seeds"], mean + row["mark"],
                      "" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.4f}-{row['ci_high']:.4f}",
                      note or _number(row["difference"], "+.4f"), _number(row["p_t"], ".2g"),
                      _number(row["p_wilcoxon"], ".2g")])
    head = ["model", *(column.removesuffix("_label") for column in optional), "seeds", "mean", "95 % interval",
            "difference", "p (t)", "p (Wilcoxon)"]
    return tabulate(lines, head, disable_numparse=True,
                    colalign=["left"] * (1 + len(optional)) + ["right", "left", "left"] + ["right"] * 3)


def _number(value: float, style: str) -> str:
    return "" if math.isnan(value) else format(value, style)
