"""What ``recbole-genrec compare`` and ``recbole-genrec audit`` print."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from recbole_genrec.evaluation.audit import audit_table, published
from recbole_genrec.evaluation.significance import compare
from recbole_genrec.records import read_records, write_atomically


def compare_models(output_dir: Path, dataset: str | None, metric: str) -> int:
    """Print each model against the best baseline, a table a split, and write ``<output_dir>/significance.csv``.

    Raises:
        UserError: there is nothing to compare.
    """
    records, broken = read_records(output_dir)
    for path in broken:
        print(f"warning: {path} cannot be read and is left out", file=sys.stderr)
    table = compare(records, output_dir, metric, dataset)
    path = output_dir / "significance.csv"
    write_atomically(path, table.assign(metric=metric).to_csv(index=False, lineterminator="\n"))
    models = table[table["variant"].isna()]
    for (name, split, masked), rows in models.groupby(["dataset", "split_fingerprint", "mask_history"], dropna=False):
        users = rows["users"].max()
        print(f"\n{name}, split {split}, history {'masked' if masked else 'not masked'}"
              + ("" if pd.isna(users) else f", {int(users):,} users") + f": {metric}\n")
        print(_lines(rows))
    print("\nMean ± standard deviation over seeds; 95 % bootstrap interval over users. p: paired t-test and Wilcoxon's "
          "signed-rank\ntest over users' gains (averaged over seeds) against the best model without a language model, "
          "corrected by Holm's\nmethod; * < .05, ** < .01, *** < .001 in both tests, for models that are better.")
    if left_out := int(table["left_out"].sum()):
        print(f"{left_out} older run(s) with other settings, or repeated with the same seed, are left out.")
    if variants := len(table) - len(models):
        print(f"{variants} variant(s) of ablations are in the file only; see recbole-genrec ablation.")
    print("written:", path)
    return 0


def _lines(rows: pd.DataFrame) -> str:
    optional = [column for column in ("backbone", "item_index", "prompts") if rows[column].notna().any()]
    lines = []
    for row in rows.to_dict("records"):
        mean = f"{row['mean']:.4f}" + ("" if pd.isna(row["sd"]) else f" ± {row['sd']:.4f}")
        note = "best baseline" if row["baseline"] else "leaky" if row["leaky"] else ""
        lines.append([row["model"], *(row[column] or "" for column in optional), row["n_seeds"], mean + row["mark"],
                      "" if pd.isna(row["ci_low"]) else f"{row['ci_low']:.4f}-{row['ci_high']:.4f}",
                      note or _number(row["difference"], "+.4f"), _number(row["p_t"], ".2g"),
                      _number(row["p_wilcoxon"], ".2g")])
    return tabulate(lines, ["model", *optional, "seeds", "mean", "95 % interval", "difference", "p (t)", "p (Wilcoxon)"],
                    disable_numparse=True, colalign=["left"] * (1 + len(optional)) + ["right", "left", "left"]
                    + ["right"] * 3)


def _number(value: float, style: str) -> str:
    return "" if pd.isna(value) else format(value, style)


def audit(path: str | None) -> int:
    """Print a line a row of a CSV file, or of the published tables (None).

    Returns:
        1 if a row is impossible, else 0.
    Raises:
        UserError: the file cannot be read as a table of metrics.
    """
    if path is None:
        table = published()
        print(tabulate(table[["source", "dataset", "model", "verdict", "broken"]].values.tolist(),
                       ["source", "data set", "model", "verdict", "bound that it breaks"]))
    else:
        table = audit_table(path)
        for row in table.to_dict("records"):
            print(f"{row['verdict']}: {row['row']}" + (f": {row['broken']}" if row["broken"] else ""))
    impossible = int((table["verdict"] != "ok").sum())
    print(f"{impossible} of {len(table)} rows are impossible with one target per user")
    return 1 if impossible else 0
