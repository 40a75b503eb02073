"""Which of a user's behaviours a text tells of: recent ones mostly, some of the last months, a few old ones.

RecSysLLM ("Data Phase") samples "long-term preferences (10 %), medium-term preferences (30 %), and short-term
preferences (60 %)". Here these are shares *within* a history (mode ``items``), so that evaluation has them too; shares
of the *training samples* (mode ``samples``) is the other reading of the sentence.
"""

from __future__ import annotations

import numpy as np

SECONDS_PER_DAY = 86400.0
#: Tenths of a history: short, medium, long.
TENTHS = np.array([6, 3, 1])
MODES = ("items", "samples", "off")
#: To whom a period with too few behaviours passes its places: to newer ones, the nearest first, then to older ones.
HEIRS = ((1, 2), (0, 2), (1, 0))


def choose(n: int, budget: int, age: np.ndarray | None = None, rng: np.random.Generator | None = None,
           days: tuple[float, float] = (7.0, 90.0), mode: str = "items") -> tuple[np.ndarray, np.ndarray]:
    """Choose at most ``budget`` of ``n`` behaviours that stand oldest first, all before the target.

    If there are no more than ``budget`` behaviours, or all are of one period, the newest are kept and nothing is drawn.
    Else every period has a number of places, which pass to newer periods, then to older ones, where it has too few
    behaviours. The newest behaviour is always kept.

    * ``items``: 60, 30 and 10 % of the places, rounded by largest remainders, ties to the newer period. In training a
      period's behaviours are drawn without replacement; in evaluation they are the newest ones (short) or evenly
      spaced ones that end with the period's newest (medium, long).
    * ``samples``: in training one period is drawn (.6, .3, .1) and has all places; if it has too few behaviours (none,
      for one) the other places pass on as above, and one is the newest behaviour's. Evaluation: the newest.
    * ``off``: the newest.

    Args:
        n: number of behaviours.
        budget: the most to keep.
        age: ``[n]`` float64 seconds from each behaviour to the target, so none increases; None, or NaN anywhere:
            only the order is known, and the periods are the newest, middle and oldest third.
        rng: draws for training; None for evaluation, which is deterministic.
        days: the greatest age in days of short and of medium behaviours.
        mode: ``items``, ``samples`` or ``off``.
    Returns:
        ``[min(n, budget)]`` int64 numbers of the behaviours kept, ascending; ``[3]`` int64, how many of them are of the
        short, medium and long period.
    Raises:
        ValueError: a negative number of behaviours or places, an unknown mode, days that do not increase from 0, ages
            of another number of behaviours, negative ones (later than the target) or increasing ones.
    """
    if n < 0 or budget < 0:
        raise ValueError(f"cannot keep {budget} of {n} behaviours")
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    if not 0 <= days[0] <= days[1]:
        raise ValueError(f"days {days} must be two numbers from 0 up, the smaller first")
    begin, end = _periods(n, age, days)
    size, places = end - begin, min(n, budget)
    if places == n or places == 0 or size.max() == n or mode == "off" or (mode == "samples" and rng is None):
        kept = np.arange(n - places, n)
        return kept, np.clip(end - np.maximum(begin, n - places), 0, None)
    if mode == "items":
        counts = _fitted(_quotas(places), size)
    else:
        counts = _fitted(places * np.eye(3, dtype=np.int64)[rng.choice(3, p=TENTHS / 10)], size)
    newest = int((size > 0).argmax())
    if counts[newest] == 0:  # only where one other period was drawn and could fill all places
        counts[counts.argmax()] -= 1
        counts[newest] = 1
    parts = []
    for period in (2, 1, 0):
        count = int(counts[period])
        if rng is not None:
            part = _drawn(int(size[period]), count, period == newest, rng)
        elif period == 0:
            part = np.arange(size[0] - count, size[0])
        else:  # the last of each of ``count`` equal stretches
            part = np.arange(1, count + 1) * size[period] // max(count, 1) - 1
        parts.append(begin[period] + part)
    return np.concatenate(parts), counts


def _periods(n: int, age: np.ndarray | None, days: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """``[3]`` first behaviour of each period (short, medium, long), ``[3]`` the one after its last."""
    if age is not None:
        age = np.asarray(age, dtype=np.float64)
        if age.shape != (n,):
            raise ValueError(f"ages of shape {age.shape} for {n} behaviours")
    if age is None or np.isnan(age).any():
        short = -(-n // 3)
        medium = -(-(n - short) // 2)
    else:
        if n and age[-1] < 0:
            raise ValueError(f"an age of {age[-1]} seconds: a behaviour later than the target")
        if (age[1:] > age[:-1]).any():
            raise ValueError("ages increase: behaviours must stand oldest first")
        short, both = np.searchsorted(age[::-1], np.array(days) * SECONDS_PER_DAY, side="right")
        medium = both - short
    middle, late = n - short - medium, n - short
    return np.array([late, middle, 0]), np.array([n, late, middle])


def _quotas(places: int) -> np.ndarray:
    """``[3]`` places of the short, medium and long period, by largest remainder."""
    quotas, remainders = np.divmod(TENTHS * places, 10)
    quotas[np.argsort(-remainders, kind="stable")[: places - quotas.sum()]] += 1
    return quotas


def _fitted(quotas: np.ndarray, size: np.ndarray) -> np.ndarray:
    """``[3]`` places such that no period has more than behaviours; there are enough behaviours in all."""
    counts = np.minimum(quotas, size)
    for period, heirs in enumerate(HEIRS):
        rest = max(int(quotas[period] - size[period]), 0)
        for heir in heirs:
            passed = min(rest, int(size[heir] - counts[heir]))
            counts[heir] += passed
            rest -= passed
    return counts


def _drawn(size: int, count: int, keep_newest: bool, rng: np.random.Generator) -> np.ndarray:
    """``[count]`` of the numbers below ``size``, ascending; the last one certainly if asked for."""
    if not keep_newest:
        return np.sort(rng.choice(size, count, replace=False))
    return np.append(np.sort(rng.choice(size - 1, count - 1, replace=False)), size - 1)
