"""``recbole-genrec ablation``: the tables of an ablation again, from its records."""

from __future__ import annotations

import argparse
from pathlib import Path

_EXAMPLES = """examples:
  %(prog)s genrec
  %(prog)s ./mine.yaml --output_dir=results

The runs are made by `run --ablation=NAME`.
Exit code: 0 done, 2 a mistake in the call, or no run of that ablation (one line says which).
"""


def add(commands) -> None:
    ablation = commands.add_parser("ablation", help="make the tables of an ablation again, from its records",
                                   allow_abbrev=False, description="The tables and plots of an ablation, from the "
                                   "records of its runs. Nothing is trained.", epilog=_EXAMPLES,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    ablation.add_argument("name", metavar="NAME", help="a name in properties/ablation, or a YAML file")
    ablation.add_argument("--output_dir", default="results", help="where the records are (default results)")
    ablation.set_defaults(handler=_ablation)


def _ablation(arguments: argparse.Namespace) -> int:
    from recbole_genrec.ablation import read_ablation

    ablation = read_ablation(arguments.name)
    from recbole_genrec.evaluation.ablation_report import report

    report(ablation, Path(arguments.output_dir).expanduser())
    return 0
