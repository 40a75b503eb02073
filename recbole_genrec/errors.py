"""The one exception that means "the user can mend this", and the hint that goes with it."""

from __future__ import annotations

import difflib
from typing import Iterable


class UserError(Exception):
    """A mistake in the input: one clear sentence, no traceback, exit code 2.

    The message names the offending value and, where there is one, the nearest valid one.
    """


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the candidate nearest to ``word`` (case ignored), or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[near[0]]}'?" if near else ""


def first_sentence(error: Exception) -> str:
    """What another library's exception says, short enough for a line."""
    return " ".join(str(error).split()).split(". ")[0][:300]
