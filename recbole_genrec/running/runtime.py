"""Settings of the process that runs benchmarks; the library itself never touches them."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import logging
import os
import warnings
from collections.abc import Iterator

from recbole_genrec.running import termination

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks instead of giving them back to the kernel.

    By default each tensor over 32 MiB is mapped and unmapped anew, and every training step pays for its page
    faults. Does nothing on other C libraries.
    """
    library = ctypes.util.find_library("c")
    if library is None:
        return
    libc = ctypes.CDLL(library)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextlib.contextmanager
def training_process() -> Iterator[None]:
    """What every command that trains does first: a quiet terminal, kept memory, signals that end a run in order."""
    quiet()
    keep_freed_memory()
    with termination.handled(), subnormals_flushed():
        yield


@contextlib.contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take floats nearer to zero than a normal one for zero, as GPUs do, in this thread and those that it begins.

    Weights and moments that decay (L2, Adam) become subnormal, and a CPU reckons with such numbers tens of times more
    slowly: a Caser's fifth epoch took four times as long as its fourth. Threads that torch has begun before keep their
    ways, so this comes before its first large operation.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def quiet() -> None:
    """Only our own lines and real warnings on the terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("recbole_genrec").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers
    from huggingface_hub.utils import logging as hub_logging

    # Their retries; our own line says what could not be had. Set here: the hub sets its own level as it is imported.
    hub_logging.set_verbosity(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
