"""Which item is meant by a title that somebody typed."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.errors import UserError

#: Likeness (0 to 100) from which the nearest title is taken without asking, and its lead over the next one. Chosen on
#: ml-100k and amazon-toys: tests/test_titles.py holds the shares of wrong guesses.
SURE, LEAD = 86.0, 6.0
#: How many titles are offered where none is taken.
OFFERED = 5
_ARTICLES = {"the", "a", "an"}
_ID = "id:"


@dataclass(frozen=True)
class Match:
    """An item that may be meant: its raw id, its title, and how like the query that is (0 to 100)."""

    item: str
    title: str
    likeness: float = 100.0


@dataclass(frozen=True)
class Found:
    """What a query was understood as.

    Attributes:
        query: what was typed.
        how: ``id``; ``title`` (but for case and white space); ``words`` (the same words: order, accents, punctuation,
            articles and what stands in parentheses aside); ``similar`` (clearly the nearest); or, where nothing is
            taken, ``ambiguous`` (several items have this title) and ``unsure``.
        matches: the item that is meant; else those that may be, the nearest first.
    """

    query: str
    how: str
    matches: list[Match]

    @property
    def sure(self) -> bool:
        """Whether one item is meant."""
        return self.how not in ("ambiguous", "unsure")

    def the_one(self) -> Match:
        """The item that is meant.

        Raises:
            UserError: none is, or several may be; the sentence names them.
        """
        if self.sure:
            return self.matches[0]
        offered = "; ".join(f"{match.title} ({_ID}{match.item})" for match in self.matches)
        if self.how == "ambiguous":
            raise UserError(f"several items are called '{self.query}': {offered}; give one by its {_ID}...")
        raise UserError(f"no title is clearly '{self.query}'; the nearest: {offered}")


class Titles:
    """Finds items of a catalogue by title.

    Args:
        catalogue: titles and raw ids.
    """

    def __init__(self, catalogue: Catalogue):
        self.titles, self.raw = catalogue.titles, catalogue.item_tokens
        #: Raw id -> internal id.
        self.number = {raw: item for item, raw in enumerate(self.raw) if item}
        self._by_title, self._by_words = defaultdict(list), defaultdict(list)
        self._plain = [""] * len(self.titles)  # what likeness is measured on
        self._folded = [_folded(title) for title in self.titles]
        for item, title in enumerate(self.titles[1:], 1):
            self._by_title[self._folded[item]].append(item)
            for key in {_words(title), _words(_without_end(title)), _words(_bare(title))} - {""}:
                self._by_words[key].append(item)
            self._plain[item] = _plain(title)

    def find(self, query: str) -> Found:
        """The item that is meant by a title, or by ``id:`` and a raw id.

        Raises:
            UserError: nothing was typed, or no item has that id.
        """
        if not query.strip():
            raise UserError("a title is empty")
        if query.strip().startswith(_ID):
            raw = query.strip()[len(_ID):].strip()
            if raw not in self.number:
                raise UserError(f"no item has the id '{raw}'")
            return Found(query, "id", self._matches([self.number[raw]]))
        for how, items in (("title", self._by_title.get(_folded(query))), ("words", self._same_words(query))):
            if items:
                return Found(query, how if len(items) == 1 else "ambiguous", self._matches(items))
        return self._by_likeness(query)

    def suggest(self, query: str, limit: int = 8) -> list[Match]:
        """Titles for somebody who is still typing: those that begin so, hold a word that does, then the most alike."""
        typed = _folded(query)
        if not typed:
            return []
        ranked = sorted((place, len(title), item) for item, title in enumerate(self._folded) if item
                        for place in [0 if title.startswith(typed) else 1 if f" {typed}" in title else 2] if place < 2)
        items = [item for _, _, item in ranked[:limit]]
        if len(items) < limit:
            items += [item for item, _ in self._nearest(query, limit, fuzz.WRatio, 80) if item not in items]
        return self._matches(items[:limit])

    def _same_words(self, query: str) -> list[int] | None:
        """Items whose title is of these words, in full or without its parentheses; the fuller agreement wins."""
        items = self._by_words.get(_words(query))
        if items and len(items) > 1:
            whole = [item for item in items if _words(self.titles[item]) == _words(query)]
            return whole or items
        return items

    def _by_likeness(self, query: str) -> Found:
        # Whole titles are compared: that one is a part of another (WRatio) is enough to offer it, not to take it.
        near: dict[int, float] = {}
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio):
            for item, likeness in self._nearest(query, 2, scorer):
                near[item] = max(likeness, near.get(item, 0.0))
        if near:
            (item, likeness), (_, runner_up), *_ = [*sorted(near.items(), key=lambda one: -one[1]), (0, 0.0)]
            if likeness >= SURE and likeness - runner_up >= LEAD and self._same_numbers(query, item):
                return Found(query, "similar", self._matches([item], [likeness]))
        offered = self._nearest(query, OFFERED, fuzz.WRatio)
        return Found(query, "unsure", self._matches(*zip(*offered)) if offered else [])

    def _same_numbers(self, query: str, item: int) -> bool:
        """Whether no number differs: "Toy Story 2" is not "Toy Story", however alike they are."""
        typed = set(re.findall(r"\d+", query))
        return set(re.findall(r"\d+", _bare(self.titles[item]))) <= typed <= set(re.findall(r"\d+", self.titles[item]))

    def _nearest(self, query: str, limit: int, scorer, cutoff: float = 0) -> list[tuple[int, float]]:
        """The ``limit`` items of the highest likeness and that likeness; equal ones in the catalogue's order."""
        found = process.extract(_plain(query), self._plain, scorer=scorer, limit=limit + 1, score_cutoff=cutoff)
        return [(item, likeness) for _, likeness, item in found if item][:limit]

    def _matches(self, items, likeness=None) -> list[Match]:
        likeness = [100.0] * len(items) if likeness is None else likeness
        return [Match(self.raw[item], self.titles[item], round(float(score), 1))
                for item, score in zip(items, likeness)]


def _folded(text: str) -> str:
    """Case and white space aside."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _spoken(text: str) -> str:
    """Words in their order: case, accents and punctuation aside."""
    letters = unicodedata.normalize("NFKD", text.casefold().replace("&", " and "))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[^\w]|_", " ", re.sub(r"['’]", "", letters)).split())


def _words(text: str) -> str:
    """Words in no order, without articles: "Godfather, The" is "The Godfather"."""
    return " ".join(sorted(_without_articles(text)))


def _plain(title: str) -> str:
    """Words in their order, without articles and parentheses, if that leaves any."""
    return " ".join(_without_articles(_bare(title)) or _without_articles(title))


def _without_articles(text: str) -> list[str]:
    words = _spoken(text).split()
    return [word for word in words if word not in _ARTICLES] or words


def _without_end(title: str) -> str:
    """Without parentheses at the end: a year, a name in another language."""
    return re.sub(r"\s*\([^()]*\)\s*$", "", title)


def _bare(title: str) -> str:
    """Without any parentheses."""
    return re.sub(r"\([^()]*\)", " ", title).strip()
