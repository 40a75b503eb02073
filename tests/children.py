"""Command lines in processes of their own, forked from one that has imported everything: cheap enough to kill many."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["children", "recbole_genrec.suite",
                                 "recbole_genrec.model.sequential_recommender.genrec",
                                 "recbole.model.sequential_recommender.sasrec"])


def start(arguments: list[str], output: Path) -> multiprocessing.Process:
    """``recbole-genrec`` with these arguments, started; both its streams go to the end of a file."""
    process = _CONTEXT.Process(target=_main, args=(arguments, str(output)))
    process.start()
    return process


def finish(process: multiprocessing.Process, seconds: float = 300) -> int:
    """Its exit code, minus the signal that killed it; a process that does not end is killed and fails the test."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"still running after {seconds} seconds")
    return process.exitcode


def _main(arguments: list[str], output: str) -> None:
    import torch

    from recbole_genrec.cli import main

    torch.set_num_threads(1)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    sys.exit(main(arguments))
