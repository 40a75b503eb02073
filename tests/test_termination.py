"""When a signal is heeded: at once, at the end of what must not be cut, or when it comes again."""

from __future__ import annotations

import os
import signal

import pytest

from recbole_genrec.running import termination
from recbole_genrec.running.termination import Terminated


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handled():
    with termination.handled():
        yield


@pytest.mark.parametrize("number, raised", [
    (signal.SIGTERM, Terminated), (signal.SIGUSR2, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_is_raised_at_once_or_after_what_is_held(number, raised):
    with pytest.raises(raised):
        _send(number)
    done = []
    with pytest.raises(raised), termination.held():
        with termination.held():
            _send(number)
            done.append(termination.pending())
        done.append("inner")
    assert done == [raised, "inner"] and termination.pending() is None


def test_a_signal_that_comes_again_later_does_not_wait_and_one_that_a_launcher_passes_on_does(monkeypatch):
    done = []
    with pytest.raises(KeyboardInterrupt), termination.held():
        _send(signal.SIGINT)
        _send(signal.SIGTERM)
        _send(signal.SIGINT)
        done.append(1)
    assert done == [1]
    monkeypatch.setattr(termination, "_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt), termination.held():
        _send(signal.SIGINT)
        _send(signal.SIGINT)
        done.append(2)
    assert done == [1] and termination.pending() is None


def test_handlers_are_given_back():
    inside = signal.getsignal(signal.SIGTERM)
    with termination.handled():
        pass
    assert signal.getsignal(signal.SIGTERM) is inside
