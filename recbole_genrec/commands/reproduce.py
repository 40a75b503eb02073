"""``recbole-genrec reproduce``: measure a row again and say whether the figures agree."""

from __future__ import annotations

import argparse

from recbole_genrec.commands.arguments import add_data_path
from recbole_genrec.running.runtime import training_process

_EXAMPLES = """examples:
  %(prog)s results/runs/ml-100k-Pop-2023-20261121-060851-ab9801
  %(prog)s ml-100k-SASRec-2023-20261121-060901-ce8783 --output_dir=again --data_path=dataset

A row that was trained for some minutes is trained for as many epochs as those were, where that is the same training.
Exit code: 0 every metric lies in the 95 %% interval of the record's, 1 one does not or a run failed, 2 a mistake.
"""


def add(commands) -> None:
    reproduce = commands.add_parser("reproduce", help="measure rows of a table again", allow_abbrev=False,
                                    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EXAMPLES,
                                    description="Train and test again with a run's own settings, and compare.")
    reproduce.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, or its id in results/runs")
    reproduce.add_argument("--output_dir", default="reproduced", help="where the new records go (default %(default)s)")
    add_data_path(reproduce)
    reproduce.set_defaults(handler=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> int:
    with training_process():
        from recbole_genrec.reproduce import reproduce

        return reproduce(arguments.runs, arguments.output_dir, arguments.data_path)
