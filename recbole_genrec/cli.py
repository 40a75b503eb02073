"""Command line: ``run_benchmark.py ...``, ``recbole-genrec run ...`` and its other commands."""

from __future__ import annotations

import argparse
import os
import sys

from recbole_genrec.commands import COMMANDS, arguments
from recbole_genrec.errors import UserError
from recbole_genrec.running.termination import EXIT_CODES, Terminated


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code; prints one line on stderr for a user's mistake."""
    argv = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):  # a title that the terminal's encoding lacks is shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        typed = parse(argv)
        code = typed.handler(typed)
        sys.stdout.flush()
        return code
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
            print("error:", *str(error).split(), file=sys.stderr)  # one line, whatever was typed
        return 2
    except BrokenPipeError:  # whoever reads, like head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 1
    except OSError as error:  # a disk that is full, a folder that is gone
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_CODES[KeyboardInterrupt]
    except Terminated:
        print("terminated", file=sys.stderr)
        return EXIT_CODES[Terminated]


def parse(argv: list[str]) -> argparse.Namespace:
    """What was typed; ``handler`` is what to call with it. Raises UserError for what is no command line of ours."""
    return arguments.parse(argv, COMMANDS)
