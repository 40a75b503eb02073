"""The tables of an ablation, printed and written: CSV, Markdown and a plot for each model and data set."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterable

from recbole_genrec.ablation import Ablation
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.ablation import Table, compare
from recbole_genrec.evaluation.ablation_plot import plot
from recbole_genrec.files import write_atomically
from recbole_genrec.records import read_records
from recbole_genrec.settings import check_name

log = logging.getLogger("recbole_genrec")


def report(ablation: Ablation, output_dir: Path, pairs: Iterable[tuple[str, str]] | None = None) -> None:
    """Print the tables of an ablation and write them to ``<output_dir>/ablations``.

    Args:
        ablation: the ablation.
        output_dir: where ``runs/`` is.
        pairs: of a model and a data set; all that have records, if None.
    Raises:
        UserError: there is no run of it.
    """
    records, _ = read_records(output_dir)
    if pairs is None:
        pairs = dict.fromkeys((str(record.get("model")), str(record.get("dataset"))) for record in records
                              if record.get("ablation") == ablation.name)
        if not pairs:
            raise UserError(f"no run of ablation '{ablation.name}' under '{output_dir / 'runs'}'")
        ablation.check_models(model for model, _ in pairs)  # both are part of a file's name
        for _, dataset in pairs:
            check_name(dataset)
    folder = output_dir / "ablations"
    folder.mkdir(exist_ok=True)
    for model, dataset in pairs:
        table = compare(ablation, model, dataset, records, output_dir)
        written = _write(table, folder)
        print(f"\n{table.title}\n\n{table.as_text()}\n", *table.notes(), "", sep="\n")
        print("written:", *written)


def _write(table: Table, folder: Path) -> list[Path]:
    """Write ``<ablation>-<model>-<dataset>.csv``, ``.md`` and ``.svg``; a plot that breaks loses no table."""
    def file(suffix: str, text: str) -> Path:
        path = folder / f"{table.ablation.name}-{table.model}-{table.dataset}.{suffix}"
        write_atomically(path, text)
        return path

    written = [file("csv", table.as_csv()), file("md", table.as_markdown())]
    try:
        written.append(file("svg", plot(table)))
    except Exception as error:
        log.warning("warning: the plot of %s failed: %s: %s", table.title, type(error).__name__, error)
    return written
