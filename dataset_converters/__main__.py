"""Command line: ``python -m dataset_converters SOURCE --output DIR --name NAME ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn, Sequence

from . import atomic, sequences
from .reading import ConversionError, Rejects

# A source is a module with a docstring, `add_arguments(parser)` and
# `convert(args, rejects) -> atomic.Corpus`.
SOURCES = {"sequences": sequences}


class _Parser(argparse.ArgumentParser):
    """argparse with one line per mistake: the usage text would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def fraction(text: str) -> float:
    """argparse type: a number in 0..1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The parser: one subcommand a source, with the options of the shared writer."""
    parser = _Parser(prog="python -m dataset_converters", description=__doc__)
    commands = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, module in SOURCES.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command.add_argument_group("input (plain or gzip)"))
        group = command.add_argument_group("output")
        group.add_argument("--output", required=True, metavar="DIR", help="parent folder")
        group.add_argument("--name", required=True, help="data set name: DIR/NAME/NAME.inter")
        group.add_argument(
            "--tie_order", "--tie-order", choices=atomic.TIE_ORDERS, default="source",
            help="items of one user at one time: as in the source, or by a seeded hash",
        )  # fmt: skip
        group.add_argument("--tie_seed", "--tie-seed", type=int, default=2023, metavar="INT")
        group.add_argument(
            "--max-rejects", "--max_rejects", type=fraction, default=0.001, metavar="FRACTION",
            help="fail above this share of malformed input lines (default %(default)s)",
        )  # fmt: skip
        group.add_argument("--force", action="store_true", help="replace an earlier conversion")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; return 0, or 2 after one line on stderr when input or arguments are at fault."""
    args = build_parser().parse_args(argv)
    try:
        target = atomic.claim(args.output, args.name, args.force)
        rejects = Rejects(args.max_rejects)
        corpus = SOURCES[args.source].convert(args, rejects)
        rejects.check()
        order = atomic.TieOrder(args.tie_order, args.tie_seed)
        report = atomic.write(corpus, target, args.name, args.source, order, rejects)
    except ConversionError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        print(atomic.summary(report, Path(args.output, args.name)))
        return 0
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
