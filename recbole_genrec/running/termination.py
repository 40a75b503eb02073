"""SIGTERM and Ctrl-C: a run stops where nothing is lost, says so, and exits 143 or 130."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM arrived: a cluster takes the machine back. Not an Exception: nobody's ``except`` shall swallow it."""


#: What a signal raises, the exit code that it ends with by custom (128 + its number), and the record's reason.
_RAISED = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}
if hasattr(signal, "SIGUSR2"):
    _RAISED[signal.SIGUSR2] = Terminated  # submitit's notice
#: Launchers pass on a signal that the system has sent already: only one that comes later is somebody in a hurry.
_SECONDS = 3.0
EXIT_CODES = {Terminated: 143, KeyboardInterrupt: 130}
REASONS = {Terminated: "terminated (SIGTERM)", KeyboardInterrupt: "interrupted from the keyboard"}

_held = 0
_pending: type[BaseException] | None = None
_asked_at = 0.0


def _on_signal(number: int, frame) -> None:
    global _pending, _asked_at
    now = time.monotonic()
    again = _pending is not None and now - _asked_at > _SECONDS
    if _pending is None:
        _pending, _asked_at = _RAISED[signal.Signals(number)], now
    if not _held or again:  # whoever asks twice does not want to wait
        raise_pending()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within this block the two signals are heeded as :func:`held` says; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in _RAISED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within this block a signal waits: for its end, or for :func:`raise_pending`. A second one does not."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if not _held:
        raise_pending()


def pending() -> type[BaseException] | None:
    """What a waiting signal will raise."""
    return _pending


def raise_pending() -> None:
    """Raise what waits, if anything does."""
    global _pending
    if _pending is not None:
        raised, _pending = _pending, None
        raise raised
