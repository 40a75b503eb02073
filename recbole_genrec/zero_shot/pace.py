"""When requests may be sent: evenly spaced, and not while the server asks to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """A place in time for each request, for all threads together.

    Args:
        per_minute: requests; None: no limit.
        clock: seconds that only grow.
        sleep: waits so many seconds; default: until :meth:`stop`.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], object] | None = None):
        self.interval = 60 / per_minute if per_minute else 0.0
        self.clock, self._stopped = clock, threading.Event()
        self.sleep = sleep or self._stopped.wait
        self._lock, self._next = threading.Lock(), float("-inf")

    def wait(self) -> None:
        """Return when the next request may go."""
        with self._lock:
            now = self.clock()
            turn = max(now, self._next)
            self._next = turn + self.interval
        if turn > now:
            self.sleep(turn - now)

    def pause(self, seconds: float) -> None:
        """Let no further request go for so long."""
        with self._lock:
            self._next = max(self._next, self.clock() + seconds)

    def stop(self) -> None:
        """Wake all that wait: nothing more is to be sent."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()
