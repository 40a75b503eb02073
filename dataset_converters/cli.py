"""Raw public dumps to RecBole data sets: python -m dataset_converters SOURCE --output DIR ..."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn, Sequence, TextIO

# pyarrow imports pandas at its first use; an interrupt within that import would be lost.
import pandas  # noqa: F401

from . import amazon, atomic, filtering, movielens, ordering, report, sequences, yelp
from .reading import ConversionError, Rejects
from .staging import Staging

# A source is a module with a docstring, EXAMPLES, `add_arguments(parser)` and
# `convert(args, rejects, staging) -> corpus.Corpus`.
SOURCES = {"amazon": amazon, "movielens": movielens, "yelp": yelp, "sequences": sequences}


class _Parser(argparse.ArgumentParser):
    """argparse with one line per mistake: the usage text would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser: one subcommand a source, with the options of the shared writer."""
    parser = _Parser(prog="python -m dataset_converters", description=__doc__)
    commands = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for name, module in SOURCES.items():
        about = (module.__doc__ or "").replace("``", "")
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
    group.add_argument(
        "--tie_seed", "--tie-seed", type=int, default=2023, metavar="INT",
        help="of --tie_order hash (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--item_ids", "--item-ids", choices=ordering.ITEM_IDS, default="source",
        help="item ids of the source, or 1..n by a seeded shuffle with the rows sorted by them: "
        "numbers by first appearance give away the next item",
    )  # fmt: skip
    group.add_argument(
        "--id_seed", "--id-seed", type=int, default=2023, metavar="INT",
        help="of --item_ids shuffled (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-rejects", "--max_rejects", type=filtering.share, default=0.001, metavar="FRACTION",
        help="fail above this share of malformed input lines (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--expect", type=report.expectation, default={}, metavar="users=U,items=I,interactions=N",
        help="fail unless the result has these counts (any of them; read=R: before the filters)",
    )  # fmt: skip
    group.add_argument(
        "--force", action="store_true",
        help="replace an earlier conversion, if its folder holds nothing else",
    )  # fmt: skip


def run(argv: Sequence[str] | None = None) -> int:
    """Convert; return 0, or after one line on stderr: 2 when input or arguments are at fault,
    1 when the result could not be told, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    options = atomic.Options(
        tie_order=ordering.TieOrder(args.tie_order, args.tie_seed),
        item_ids=args.item_ids, id_seed=args.id_seed,
        filters=filtering.Filters.of(args), expected=args.expect,
    )  # fmt: skip
    staging = None
    try:
        staging = Staging(atomic.claim(args.output, args.name, args.force))
        with staging:
            # Again, now that nobody else writes: another run may just have made the folder.
            atomic.claim(args.output, args.name, args.force)
            rejects = Rejects(args.max_rejects)
            corpus = SOURCES[args.source].convert(args, rejects, staging)
            for one, other in report.same_files(corpus.inputs):
                _say(f"warning: {_one_line(f'{one} and {other} have the same content')}", sys.stderr)
            rejects.check()
            done = atomic.write(corpus, staging, args.name, args.source, options, rejects)
    except ConversionError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        resumable = staging is not None and staging.parts()
        _say("interrupted" + "; the same command goes on from here" * bool(resumable), sys.stderr)
        return 130
    else:
        return _tell(report.summary(done, Path(args.output, args.name)))
    _say(f"error: {_one_line(message)}", sys.stderr)
    return 2


def _one_line(message: str) -> str:
    """A file name may hold line breaks; a message is one line."""
    return " ".join(message.splitlines())


def _say(text: str, stream: TextIO) -> None:
    """Print, with escapes for what the stream's encoding lacks (a path need not be UTF-8)."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _tell(summary: str) -> int:
    """Print the summary; the data set is there, whatever becomes of the text about it."""
    try:
        if sys.stdout is not None:
            _say(summary, sys.stdout)
        return 0
    except OSError as error:
        # What is left in the buffer would fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # "| head" has seen enough
            return 0
        _say(f"error: the data set is written, but not its summary: {error.strerror}", sys.stderr)
        return 1
