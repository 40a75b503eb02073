"""From a user's behaviours to a text with blanks: which behaviours, which wording, which blanks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from recbole_genrec.index import ItemIndex
from recbole_genrec.infilling.blanks import Sample, Specials, fill_in
from recbole_genrec.infilling.features import Features
from recbole_genrec.infilling.masks import MaskRule, draw_level, draw_spans
from recbole_genrec.infilling.periods import choose
from recbole_genrec.infilling.text import Segments
from recbole_genrec.infilling.wording import Wording
from recbole_genrec.template import Template


@dataclass(frozen=True)
class History:
    """What is known of a user before the item to predict, oldest first.

    Attributes:
        user: internal id, 0 for an unknown one.
        items: ``[N]`` int64.
        age: ``[N]`` float64 seconds before the moment of prediction; None if no times are known.
    """

    user: int
    items: np.ndarray
    age: np.ndarray | None


class Builder:
    """Lays out texts and makes their blanks.

    A text is a row of segments, each tokenised on its own: an item's title or an attribute's value (entities), and the
    plain words around them.

    Args:
        index: spelling of every item; its terminator is END.
        tokenizer: for all other text.
        specials: ids of the special tokens.
        wording: the templates.
        users, items: features that are written out.
        separator: token at the end of every line.
        rule: how blanks are drawn.
        max_items: behaviours of a text.
        max_tokens: tokens of a row, A and B together. What does not fit is left out: the oldest behaviours, then the
            items' attributes, then the user's features, never wording, blank or answer. Raised where needed so that
            those and one behaviour always fit.
        period_sampling, days: see :func:`recbole_genrec.infilling.periods.choose`.
        entity_positions: whether intra ids know entities.
        shuffle: whether the blanks of B stand in random order, as in GLM, instead of the text's.
        most_blanks: blanks that the backbone can tell apart; None: any number.
        listed: candidates of a task that there must be room for.
    """

    def __init__(self, index: ItemIndex, tokenizer: PreTrainedTokenizerBase, specials: Specials, wording: Wording,
                 users: Features, items: Features, separator: int, rule: MaskRule, max_items: int, max_tokens: int,
                 period_sampling: str, days: tuple[float, float], entity_positions: bool, shuffle: bool,
                 most_blanks: int | None, listed: int = 0):
        self.specials, self.wording, self.rule = specials, wording, rule
        self.max_items, self.period_sampling, self.days = max_items, period_sampling, days
        self.entity_positions, self.shuffle, self.most_blanks = entity_positions, shuffle, most_blanks
        #: How many behaviours of training texts came from each period so far: short, medium, long.
        self.period_counts = np.zeros(3, dtype=np.int64)

        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

        def words(text: str) -> list[int]:
            """A line break is the separator, also for tokenizers that have none."""
            lines = text.split("\n")
            return [token for number, line in enumerate(lines)
                    for token in ([separator] if number else []) + (encode(line) if line else [])]

        pieces = [index.spelling(item)[:-1] for item in range(index.n_items)]  # without END; id 0 is empty
        entity = [True] * len(pieces)
        maskable = [True] * len(pieces)

        def add(tokens: list[int], is_entity: bool, may_be_masked: bool = True) -> int:
            pieces.append(tokens)
            entity.append(is_entity)
            maskable.append(may_be_masked)
            return len(pieces) - 1

        self.line_end = add([separator], False)
        self._templates: dict[Template, list[int | str]] = {}
        for template in wording.templates():
            free = template is wording.infill
            self._templates[template] = [content if is_slot else add(words(content), False, free)
                                         for is_slot, content in template.pieces]
        attributes: dict[str, int] = {}

        def written(features: Features, row: int, opening: dict[str, int]) -> list[int]:
            ids = []
            for name, column in zip(features.names, features.values):
                for value in column[row]:
                    if value not in attributes:
                        attributes[value] = add(encode(f" {value}"), True)
                    ids += [opening[name], attributes[value]]
            return ids

        openings = {name: add(encode(f"{name}:"), False) for name in users.names}
        self._user_lines = []
        for row in range(len(users.values[0]) if users.values else 0):
            pairs = np.array(written(users, row, openings), dtype=np.int64).reshape(-1, 2)
            self._user_lines.append(np.insert(pairs, 2, self.line_end, axis=1).ravel())
        openings = {name: add(encode(f", {name}:"), False) for name in items.names}
        self._attributes = [np.array(written(items, row, openings), int)
                            for row in range(len(items.values[0]) if items.values else 0)]
        self.segments = Segments(pieces, np.array(entity), np.array(maskable))
        #: Spellings of all entities, without END.
        self.entities = [piece for piece, is_entity in zip(pieces, entity) if is_entity and piece]
        self.largest_token = max(specials.end, specials.start, specials.entity, specials.sentence, specials.document,
                                 int(self.segments.flat.max()))

        length = self.segments.lengths
        titles = length[:index.n_items]
        self._line_tokens = titles + 1 + np.array([length[ids].sum() for ids in self._attributes] or 0)
        # Frame, one behaviour, answer, START, mask, CLS, end of text, and the longest lines as candidates.
        frame = max(map(self._frame, self._templates.values()))
        candidates = np.sort(self._line_tokens)[::-1][:listed].sum()
        self.max_tokens = max(max_tokens, frame + 2 * int(titles.max()) + 5 + int(candidates))

    # ------------------------------------------------------------------------------------------------ samples

    def task(self, history: History, answer: int | None, template: Template, rng: np.random.Generator | None,
             candidates: np.ndarray | None = None) -> Sample:
        """A text with one blank.

        Args:
            history: before the answer.
            answer: item that the blank holds; None: it is to be predicted, and B is START alone.
            template: the wording.
            rng: draws behaviours (training), or None (evaluation).
            candidates: ``[C]`` items that the template lists, if it does.
        """
        parts = self._templates[template]
        blank = 0 if answer is None else int(self.segments.lengths[answer])
        listed = self._lines(candidates) if candidates is not None else np.zeros(0, dtype=np.int64)
        # A holds the mask, CLS and the end of the text, B its START.
        room = self.max_tokens - blank - 4 - int(self.segments.lengths[listed].sum())
        user, behaviours = self._fitting(history, room - self._frame(parts), rng)
        slots = {"user": user, "history": behaviours, "candidates": listed,
                 "mask": np.array([] if answer is None else [answer], dtype=np.int64)}
        ids = _placed(parts, slots)
        begin = int(self.segments.lengths[np.concatenate(ids[:parts.index("mask")])].sum())
        return fill_in(self.segments.text(np.concatenate(ids)), np.array([[begin, begin + blank]]), "entity",
                       self.specials, None, self.entity_positions)

    def infill(self, history: History, rng: np.random.Generator) -> Sample | None:
        """A text with blanks drawn by the rule; None if the text is too short for any."""
        parts = self._templates[self.wording.infill]
        # As many blanks as masked tokens at most; each costs a mask and a START.
        room = int((self.max_tokens - 2 - 2) / (1 + 2 * self.rule.ratio))
        user, behaviours = self._fitting(history, room - self._frame(parts), rng)
        text = self.segments.text(np.concatenate(_placed(parts, {"user": user, "history": behaviours})))
        level = draw_level(self.rule, rng)
        spans = draw_spans(text, level, self.rule, rng)
        if self.most_blanks is not None and len(spans) > self.most_blanks:
            spans = spans[np.sort(rng.permutation(len(spans))[:self.most_blanks])]
        if not len(spans):
            return None
        order = rng.permutation(len(spans)) if self.shuffle else None
        return fill_in(text, spans, level, self.specials, order, self.entity_positions)

    # ------------------------------------------------------------------------------------------------- history

    def _frame(self, parts: list[int | str]) -> int:
        """Tokens of a template's own words."""
        return sum(int(self.segments.lengths[part]) for part in parts if not isinstance(part, str))

    def _fitting(self, history: History, room: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Segments of the user's features and of the behaviours that fit into ``room`` tokens."""
        user = self._user_lines[history.user] if history.user < len(self._user_lines) else np.zeros(0, dtype=np.int64)
        lengths = self.segments.lengths
        left = room - int(lengths[user].sum())
        newest_first = self._line_tokens[history.items[::-1]].cumsum()
        budget = min(self.max_items, max(1, int(np.searchsorted(newest_first, left, side="right"))))
        kept, counts = choose(len(history.items), budget, history.age, rng, self.days, self.period_sampling)
        if rng is not None:
            self.period_counts += counts
        items = history.items[kept]
        fits = self._line_tokens[items][::-1].cumsum()[::-1] <= left
        if not fits.any() and len(items):  # the newest one, without its attributes, then without the user's
            items = items[-1:]
            if lengths[items].sum() + 1 > left:
                user = np.zeros(0, dtype=np.int64)
            return user, np.array([items[0], self.line_end])
        return user, self._lines(items[fits])

    def _lines(self, items: np.ndarray) -> np.ndarray:
        """Segments of one line an item: title, attributes, line break."""
        if not self._attributes:
            return np.stack([items, np.full_like(items, self.line_end)], 1).ravel()
        lines = [part for item in items for part in ([item], self._attributes[item], [self.line_end])]
        return np.concatenate(lines).astype(np.int64) if lines else np.zeros(0, dtype=np.int64)

    def report(self) -> dict:
        """For the result record."""
        total = int(self.period_counts.sum())
        shares = dict(zip(("short", "medium", "long"), (self.period_counts / max(total, 1)).round(4).tolist()))
        return {"period_shares": shares if total else None, "entities": len(set(map(tuple, self.entities)))}


def _placed(parts: list[int | str], slots: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Segments of each part of a template: its own words, or what goes into the slot."""
    return [slots[part] if isinstance(part, str) else np.array([part]) for part in parts]
