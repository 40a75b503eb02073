"""``recbole-genrec check-data``: what data sets give away."""

from __future__ import annotations

import argparse

from recbole_genrec.commands.arguments import add_data_options, names_of, overrides_of
from recbole_genrec.running.runtime import keep_freed_memory, quiet

_EXAMPLES = """examples:
  %(prog)s --dataset=ml-100k
  %(prog)s --dataset=amazon-toys,amazon-beauty --data_path=./dataset
  %(prog)s --dataset=mine --config_files=mine.yaml --repeat_consumption=true

A line of the table is "ok", "LEAK" (the data give test items away, or a test means little) or "note" (worth knowing).
Any configuration key of RecBole or of this project is given as --key=value.
Exit code: 0 done, whatever was found; 2 a mistake in the call (one line says which).
"""


def add(commands) -> None:
    check = commands.add_parser("check-data", help="tell what data sets give away", allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EXAMPLES,
                                description="Leak checks of data sets and their splits, one table each.")
    check.add_argument("--dataset", required=True, help="one or more data sets, separated by commas")
    add_data_options(check)
    check.set_defaults(handler=_check, settings=[])


def _check(arguments: argparse.Namespace) -> int:
    overrides = overrides_of(arguments, "data_path")
    datasets = names_of(arguments.dataset, "--dataset")
    quiet()
    keep_freed_memory()
    from recbole_genrec.check import check_data

    return check_data(datasets, arguments.config_files.split(), overrides)
