"""Command line: ``python -m dataset_converters SOURCE --output DIR --name NAME ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn, Sequence

from . import amazon, atomic, filtering, movielens, ordering, report, sequences, yelp
from .reading import ConversionError, Rejects
from .staging import Staging

# A source is a module with a docstring, EXAMPLES, `add_arguments(parser)` and
# `convert(args, rejects, staging) -> corpus.Corpus`.
SOURCES = {"amazon": amazon, "movielens": movielens, "yelp": yelp, "sequences": sequences}


class _Parser(argparse.ArgumentParser):
    """argparse with one line per mistake: the usage text would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser: one subcommand a source, with the options of the shared writer."""
    parser = _Parser(prog="python -m dataset_converters", description=__doc__)
    commands = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, module in SOURCES.items():
        about = module.__doc__ or ""
        command = commands.add_parser(
            name, help=about.partition("\n")[0], description=about, epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        module.add_arguments(command.add_argument_group("input (plain or gzip)"))
        filtering.add_arguments(command.add_argument_group("filters", filtering.ORDER))
        _add_output(command.add_argument_group("output"))
    return parser


def _add_output(group: argparse._ActionsContainer) -> None:
    group.add_argument("--output", required=True, metavar="DIR", help="parent folder")
    group.add_argument("--name", required=True, help="data set name: DIR/NAME/NAME.inter")
    group.add_argument(
        "--tie_order", "--tie-order", choices=ordering.TIE_ORDERS, default="source",
        help="items of one user at one time: as in the source, or by a seeded hash",
    )  # fmt: skip
    group.add_argument("--tie_seed", "--tie-seed", type=int, default=2023, metavar="INT")
    group.add_argument(
        "--item_ids", "--item-ids", choices=ordering.ITEM_IDS, default="source",
        help="item ids of the source, or 1..n by a seeded shuffle with the rows sorted by them: "
        "numbers by first appearance give away the next item",
    )  # fmt: skip
    group.add_argument("--id_seed", "--id-seed", type=int, default=2023, metavar="INT")
    group.add_argument(
        "--max-rejects", "--max_rejects", type=filtering.share, default=0.001, metavar="FRACTION",
        help="fail above this share of malformed input lines (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--expect", type=report.expectation, default={}, metavar="users=U,items=I,interactions=N",
        help="fail unless the result has these counts (any of them; read=R: before the filters)",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="replace an earlier conversion")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; return 0, or 2 after one line on stderr when input or arguments are at fault."""
    args = build_parser().parse_args(argv)
    options = atomic.Options(
        tie_order=ordering.TieOrder(args.tie_order, args.tie_seed),
        item_ids=args.item_ids, id_seed=args.id_seed,
        filters=filtering.Filters.of(args), expected=args.expect,
    )  # fmt: skip
    try:
        with Staging(atomic.claim(args.output, args.name, args.force)) as staging:
            rejects = Rejects(args.max_rejects)
            corpus = SOURCES[args.source].convert(args, rejects, staging)
            rejects.check()
            done = atomic.write(corpus, staging, args.name, args.source, options, rejects)
    except ConversionError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    else:
        print(report.summary(done, Path(args.output, args.name)))
        return 0
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
