"""``recbole-genrec report``: a leaderboard as one HTML page, or as Markdown or LaTeX tables."""

from __future__ import annotations

import argparse
from pathlib import Path

_EXAMPLES = """examples:
  %(prog)s results
  %(prog)s results --output report.html
  %(prog)s results/leaderboard.csv --output table.tex

A table is of one data set, split and masking policy; an ablation has its own. The page is one file and loads nothing.
Exit code: 0 done, 2 a mistake in the call (one line says which).
"""


def add(commands) -> None:
    report = commands.add_parser("report", help="show a leaderboard as one HTML page, or as Markdown or LaTeX tables",
                                 allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
                                 epilog=_EXAMPLES, description="A leaderboard to look at, to send and to print. "
                                 "Nothing is trained.")
    report.add_argument("leaderboard", metavar="LEADERBOARD", help="a leaderboard.csv, or an output folder; records "
                                                                   "under runs/ beside it give the details")
    report.add_argument("--output", default=None, help="the file to write (default report.html, .md or .tex)")
    report.add_argument("--format", default=None, help="html, markdown or latex (default: by the suffix of --output)")
    report.set_defaults(handler=_report)


def _report(arguments: argparse.Namespace) -> int:
    from recbole_genrec.report import write_report

    output = None if arguments.output is None else Path(arguments.output).expanduser()
    return write_report(Path(arguments.leaderboard).expanduser(), output, arguments.format)
