"""Which spans of a text are blanked out: runs of whole units, whole sentences, or one long stretch.

RecSysLLM ("Mask Mechanism") blanks at three levels, entity [M], sentence [sM] and document [gM], and never splits an
entity. Spans never touch: at least one visible token stands between two of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from recbole_genrec.infilling.text import Text

LEVELS = ("entity", "sentence", "document")


@dataclass
class MaskRule:
    """How masks are drawn. The defaults are those GLM-10B was pre-trained with; 50 to 100 % is the paper's.

    Attributes:
        levels: probability of each level; one that is left out has none.
        ratio: share of the text's tokens to mask at entity and sentence level.
        mean_length: of the Poisson distribution from which the least tokens of an entity-level span are drawn ...
        longest_draw: ... restricted to 1 .. this.
        entity_mask: false: entities are not known here, so every token is a unit and any of them may be cut.
        entity_bias: how much likelier an entity is to begin an entity-level span than a plain token.
        sentence_ends: token ids that end a sentence where they stand outside entities.

    Raises:
        ValueError: a value that makes no sense.
    """

    levels: dict[str, float] = field(default_factory=lambda: {"entity": 0.5, "sentence": 0.3, "document": 0.2})
    ratio: float = 0.15
    mean_length: float = 3
    longest_draw: int = 39
    entity_mask: bool = True
    entity_bias: float = 1.0
    sentence_ends: frozenset[int] = frozenset()

    def __post_init__(self):
        if unknown := set(self.levels) - set(LEVELS):
            raise ValueError(f"unknown mask levels {sorted(unknown)}; there are {', '.join(LEVELS)}")
        shares = np.array([self.levels.get(level, 0.0) for level in LEVELS], dtype=float)
        if not (shares >= 0).all() or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
            raise ValueError(f"levels {self.levels} are not probabilities that add up to 1")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio {self.ratio} is not above 0 and at most 1")
        if not 0 < self.mean_length < math.inf:
            raise ValueError(f"mean_length {self.mean_length} is not a positive number")
        if not self.longest_draw >= 1 or not float(self.longest_draw).is_integer():
            raise ValueError(f"longest_draw {self.longest_draw} is not a whole number from 1")
        if not 0 < self.entity_bias < math.inf:
            raise ValueError(f"entity_bias {self.entity_bias} is not a positive number")
        self.sentence_ends = frozenset(self.sentence_ends)
        if any(token < 0 for token in self.sentence_ends):
            raise ValueError(f"sentence_ends has a negative token id, {min(self.sentence_ends)}")
        self._level_steps = (shares.cumsum() / shares.cumsum()[-1]).tolist()  # the last is 1 exactly
        length = np.arange(1, self.longest_draw + 1)
        weight = length * math.log(self.mean_length) - np.array([math.lgamma(k + 1) for k in length])
        steps = np.exp(weight - weight.max()).cumsum()
        self._length_steps = (steps / steps[-1]).tolist()
        self._ends = np.zeros(max(self.sentence_ends, default=-1) + 2, dtype=bool)  # the last: all greater tokens
        self._ends[list(self.sentence_ends)] = True


def draw_level(rule: MaskRule, rng: np.random.Generator) -> str:
    """``entity``, ``sentence`` or ``document``, with the rule's probabilities."""
    return LEVELS[bisect_right(rule._level_steps, rng.random())]


def draw_spans(text: Text, level: str, rule: MaskRule, rng: np.random.Generator) -> np.ndarray:
    """Draw the spans to mask.

    * entity: spans of at least a drawn number of tokens (fewer only where the text ends, or what may be masked does),
      rounded up to whole units, until ``ratio`` of the maskable tokens are masked or no place is left.
    * sentence: whole sentences, until ``ratio`` is reached or no sentence is left that touches none taken. What
      follows the last end of a sentence is one too.
    * document: one span of 50 to 100 % (excluded) of the longest maskable stretch, at its end half of the time.

    Args:
        text: the text, without special tokens.
        level: ``entity``, ``sentence`` or ``document``.
        rule: how to draw.
        rng: what to draw with.
    Returns:
        ``[m, 2]`` int64 begin and end (exclusive) columns, ascending, of whole units that all are maskable. No two
        spans touch, and they never are the whole text. ``m`` is 0 just if nothing can be masked so: a text of one
        unit, of one sentence, without a whole sentence that is maskable, and the like; the caller may then try
        another level.
    Raises:
        ValueError: an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"unknown mask level {level!r}; there are {', '.join(LEVELS)}")
    if not len(text):
        return _spans([])
    entity, unit = (text.entity, text.unit) if rule.entity_mask else (np.zeros(len(text), bool), np.arange(len(text)))
    if level == "sentence":
        return _sentences(text, entity, rule, rng)
    bounds = np.concatenate([[0], np.flatnonzero(unit[1:] != unit[:-1]) + 1, [len(text)]])
    maskable = np.logical_and.reduceat(text.maskable, bounds[:-1])
    units = np.arange(len(bounds) - 1)
    # The unit before which the run of maskable units ends that a unit is in.
    reach = np.minimum.accumulate(np.where(maskable, len(units), units)[::-1])[::-1]
    if level == "document":
        first = int((bounds[reach] - bounds[:-1]).argmax())
        return _stretch(bounds[first:reach[first] + 1], rng)
    return _runs(bounds, maskable, reach, entity[bounds[:-1]], rule, rng)


def _spans(spans: list[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(spans), dtype=np.int64).reshape(-1, 2)


def _runs(bounds: np.ndarray, free: np.ndarray, reach: np.ndarray, entity: np.ndarray, rule: MaskRule,
          rng: np.random.Generator) -> np.ndarray:
    """Entity level, on units; ``free`` is changed in place.

    Args:
        bounds: ``[U + 1]`` columns where units begin, and the text's length.
        free: ``[U]`` bool, a span may begin there.
        reach: ``[U]`` unit before which a span from there must end.
        entity: ``[U]`` bool.
    """
    begin, size = bounds[:-1], len(free)
    weight = None if rule.entity_bias == 1 else np.where(entity, rule.entity_bias, 1.0)
    fence = np.full(size, size)  # the visible unit before the next span
    budget = max(1, math.floor(rule.ratio * int((bounds[1:] - begin)[free].sum()) + 1e-9))
    spans: list[tuple[int, int]] = []
    while budget > 0:
        least = bisect_right(rule._length_steps, rng.random()) + 1
        stop = np.minimum(bounds.searchsorted(begin + least), reach)
        # A place where a span of this length fits; where there is none, any where a shorter one does.
        places = _places(free & (stop <= fence), stop)
        if not len(places):
            stop = np.minimum(stop, fence)
            places = _places(free, stop)
            if not len(places):
                break
        if weight is None:
            first = int(places[int(rng.random() * len(places))])
        else:
            steps = weight[places].cumsum()
            first = int(places[steps.searchsorted(rng.random() * steps[-1], side="right")])
        last = int(stop[first])
        spans.append((int(bounds[first]), int(bounds[last])))
        budget -= spans[-1][1] - spans[-1][0]
        before = max(first - 1, 0)
        free[before:last + 1] = False
        np.minimum(fence[:before], before, out=fence[:before])
    return _spans(spans)


def _places(fits: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Units where a span may begin that ends before unit ``stop``: all that fit, unless it were the whole text."""
    places = fits.nonzero()[0]
    return places[1:] if len(places) and places[0] == 0 and stop[0] == len(stop) else places


def _sentences(text: Text, entity: np.ndarray, rule: MaskRule, rng: np.random.Generator) -> np.ndarray:
    """Sentence level."""
    ends = rule._ends[np.minimum(text.tokens, len(rule._ends) - 1)] & ~entity
    bounds = np.flatnonzero(ends) + 1
    bounds = np.concatenate([[0], bounds[bounds < len(text)], [len(text)]])
    if len(bounds) == 2:
        return _spans([])
    whole = np.logical_and.reduceat(text.maskable, bounds[:-1])
    wanted = rule.ratio * np.count_nonzero(text.maskable) - 1e-9
    taken = np.zeros(len(bounds) + 1, dtype=bool)  # sentence ``i`` is at ``i + 1``
    for sentence in rng.permutation(np.flatnonzero(whole)).tolist():
        if not taken[sentence] and not taken[sentence + 2]:
            taken[sentence + 1] = True
            wanted -= bounds[sentence + 1] - bounds[sentence]
            if wanted <= 0:
                break
    chosen = np.flatnonzero(taken[1:-1])
    return np.stack([bounds[chosen], bounds[chosen + 1]], axis=1)


def _stretch(bounds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Document level: one span of at least half of the stretch, but not all of it, of the units at ``bounds``."""
    if len(bounds) < 3:
        return _spans([])
    begin, end = bounds[0], bounds[-1]
    half = (end - begin + 1) // 2
    length = rng.integers(half, end - begin)
    if rng.random() < 0.5:
        # Rounding up may want all units: the first one stays.
        start = bounds[max(bounds.searchsorted(end - length, side="right") - 1, 1)]
        if end - start >= half:
            return _spans([(start, end)])
    stop = bounds.searchsorted(bounds[:-1] + length)
    places = np.flatnonzero((stop < len(bounds)) & (stop - np.arange(len(stop)) < len(bounds) - 1))
    if len(places):
        first = places[rng.integers(len(places))]
        return _spans([(bounds[first], bounds[stop[first]])])
    # Rounded up, it fits nowhere: leave out the smaller of the first and the last unit.
    return _spans([max((begin, bounds[-2]), (bounds[1], end), key=lambda span: span[1] - span[0])])
