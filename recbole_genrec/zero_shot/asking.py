"""From users to messages, from answers to scores: a chat model that is asked to rank candidates or to name items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.errors import UserError
from recbole_genrec.zero_shot.answers import Reading, normal, read_ranking, read_titles
from recbole_genrec.zero_shot.wording import Wording


@dataclass
class Question:
    """A message, and the items that its candidates are (none where none are listed)."""

    message: str
    items: list[int]


class Asker(nn.Module):
    """Asks one question a user; an answer is read once, however often its question comes up.

    Args:
        chat: an :class:`~recbole_genrec.zero_shot.endpoint.Endpoint` or a
            :class:`~recbole_genrec.zero_shot.local.LocalChat`.
        wording: of the mode.
        catalogue: titles.
        count: items that are asked for.
        most_history: items of a history that are told, the newest.
    """

    def __init__(self, chat, wording: Wording, catalogue: Catalogue, count: int, most_history: int):
        super().__init__()
        self.chat, self.wording, self.catalogue = chat, wording, catalogue
        self.count, self.most_history = count, most_history
        self._readings: dict[bytes, Reading] = {}

    def scores(self, histories: Tensor, candidates: Tensor | None) -> Tensor:
        """``[B, n_items]`` minus the rank of each item that was ranked, ``-inf`` elsewhere.

        Args:
            histories: ``[B, L]`` items, oldest first, 0 where there is none.
            candidates: ``[B, C]`` items in the order in which they are listed, or None.
        """
        listed = [[]] * len(histories) if candidates is None else candidates.tolist()
        questions = [self._question([item for item in history if item], items)
                     for history, items in zip(histories.tolist(), listed)]
        keys = [hashlib.sha256(question.message.encode(errors="surrogatepass")).digest() for question in questions]
        new = {key: question for key, question in zip(keys, questions) if key not in self._readings}
        for (key, question), answer in zip(new.items(), self.chat.answers([q.message for q in new.values()])):
            self._readings[key] = self._read(answer, question)
        scores = torch.full((len(questions), len(self.catalogue.titles)), -torch.inf)
        for row, key, question in zip(scores, keys, questions):
            order = self._order(self._readings[key], question)
            row[order] = -torch.arange(1, len(order) + 1, dtype=torch.float32)
        return scores

    def _question(self, history: list[int], items: list[int]) -> Question:
        """The message of a user, with as much of the history as the model takes."""
        titles = self.catalogue.titles
        told, listed = [titles[item] for item in history[-self.most_history:]], [titles[item] for item in items]
        message = self.wording.message(told, self.count, listed)
        while not self.chat.fits(message):
            if not told:
                raise UserError("the model takes no prompt as long as a message without a history: fewer candidates, "
                                "or a smaller max_answer_tokens")
            told = told[1:]
            message = self.wording.message(told, self.count, listed)
        return Question(message, items)

    def _read(self, answer: str, question: Question) -> Reading:
        raise NotImplementedError  # each mode reads its own form of answer

    def _order(self, reading: Reading, question: Question) -> list[int]:
        """Items, best first."""
        raise NotImplementedError  # by mode

    def _totals(self) -> tuple[int, int, int, int]:
        """Answers, and in all of them what was found, unknown and repeated."""
        readings: Sequence[Reading] = list(self._readings.values())
        return (len(readings), sum(len(reading.found) for reading in readings),
                sum(reading.unknown for reading in readings), sum(reading.repeated for reading in readings))

    def describe(self) -> dict[str, Any]:
        return {"prompt_fingerprint": self.wording.fingerprint, "items_without_title": self.catalogue.n_missing,
                **self.chat.describe()}


class ListRanker(Asker):
    """Lists the candidates and asks for the best of them.

    What the answer does not name comes last, in the order of the list, which the candidates' seed has drawn.
    """

    def _read(self, answer: str, question: Question) -> Reading:
        return read_ranking(answer, [self.catalogue.titles[item] for item in question.items])

    def _order(self, reading: Reading, question: Question) -> list[int]:
        named = [question.items[place] for place in reading.found]
        return [*named, *(item for item in question.items if item not in set(named))]

    def describe(self) -> dict[str, Any]:
        """``parse_rate``: share of the candidates asked for that answers named, each once; ``unparsed_answers``:
        answers that named none; ``unknown_entries`` and ``repeated_entries``: what else they named."""
        answers, _, unknown, repeated = self._totals()
        read = sum(min(len(reading.found), self.count) for reading in self._readings.values())
        return {**super().describe(), "parse_rate": read / (answers * self.count) if answers else None,
                "unparsed_answers": sum(not reading.found for reading in self._readings.values()),
                "unknown_entries": unknown, "repeated_entries": repeated}


class TitleWriter(Asker):
    """Asks for titles; those of the catalogue, by their normal form, are ranked, and nothing else is.

    Of items that share a title the first by a hash of the raw id is meant, as where titles spell items.
    """

    def __init__(self, chat, wording: Wording, catalogue: Catalogue, count: int, most_history: int):
        super().__init__(chat, wording, catalogue, count, most_history)
        order = sorted(range(1, len(catalogue.titles)),
                       key=lambda item: hashlib.sha256(catalogue.item_tokens[item].encode()).digest())
        self._item_of: dict[str, int] = {}
        for item in order:
            self._item_of.setdefault(normal(catalogue.titles[item]), item)

    def _read(self, answer: str, question: Question) -> Reading:
        return read_titles(answer, self._item_of)

    def _order(self, reading: Reading, question: Question) -> list[int]:
        return reading.found

    def describe(self) -> dict[str, Any]:
        """``valid_rate``: share of written titles that the catalogue has; ``duplicate_rate``: share of those that
        repeat one of the same answer; ``titles_per_answer``: how many were written."""
        answers, found, unknown, repeated = self._totals()
        valid, written = found + repeated, found + unknown + repeated
        return {**super().describe(), "valid_rate": valid / written if written else None,
                "duplicate_rate": repeated / valid if valid else 0.0,
                "titles_per_answer": written / answers if answers else None,
                "items_sharing_title": len(self.catalogue.titles) - 1 - len(self._item_of)}
