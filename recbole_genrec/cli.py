"""Command line: ``run_benchmark.py ...``, ``recbole-genrec run ...`` and its other commands."""

from __future__ import annotations

import argparse
import os
import sys

from recbole_genrec.commands import COMMANDS
from recbole_genrec.errors import UserError
from recbole_genrec.termination import EXIT_CODES, Terminated
from recbole_genrec.version import __version__


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code; prints one line on stderr for a user's mistake."""
    argv = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):  # a title that the terminal's encoding lacks is shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = parse(argv)
        return arguments.handler(arguments)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
            print("error:", *str(error).split(), file=sys.stderr)  # one line, whatever was typed
        return 2
    except OSError as error:  # a disk that is full, a folder that is gone
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_CODES[KeyboardInterrupt]
    except Terminated:
        print("terminated", file=sys.stderr)
        return EXIT_CODES[Terminated]


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as our other mistakes are: one line, no usage."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def parse(argv: list[str]) -> argparse.Namespace:
    """What was typed; ``handler`` is what to call with it. Raises UserError for what is no command line of ours."""
    parser = _Parser(prog="recbole-genrec", description="Generative recommenders beside the classical "
                                     "sequential baselines: same splits, same evaluator.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    arguments, rest = parser.parse_known_args(argv)
    if hasattr(arguments, "settings"):
        arguments.settings = rest
    elif rest:
        raise UserError(f"cannot understand '{rest[0]}'; see recbole-genrec {arguments.command} --help")
    return arguments
