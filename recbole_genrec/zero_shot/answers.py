"""How the text that a chat model answers with is read: numbers or titles, in whatever form they come."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

#: What may stand before an entry of a list: a bullet, "3.", "3)", "(3)", "#3:".
_ORDINAL = re.compile(r"\s*(?:[-*•–>]+\s*)?(?:[(#*_]*\d+[).:\-]+[*_]*(?=\s|\[))?\s*")
_BRACKETED = re.compile(r"\s*\**\[\s*#?(\d+)\s*\]\**[\s.:,\-]*(.*)")
#: Nothing but numbers and what stands between them.
_NUMBERS = re.compile(r"[^\w]*\d+(?:[^\w]+\d+)*[^\w]*")
#: Titles below so many characters are not looked for within a text: "It" is a word.
_SHORTEST = 4


@dataclass
class Reading:
    """What an answer names.

    Attributes:
        found: candidates by their place in the list (from 0), or items; best first, each once.
        unknown: entries that name nothing there is.
        repeated: entries that name again what was named before.
    """

    found: list[int] = field(default_factory=list)
    unknown: int = 0
    repeated: int = 0

    def add(self, what: int | None) -> None:
        if what is None:
            self.unknown += 1
        elif what in self.found:
            self.repeated += 1
        else:
            self.found.append(what)


def normal(text: str) -> str:
    """A title without what carries no meaning: case, white space, quotes and marks around it, forms of characters."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.strip(" \"'“”‘’«»`*_.,;")


def read_titles(answer: str, item_of: Mapping[str, int]) -> Reading:
    """Titles that a model wrote, one a line or as a JSON list.

    Args:
        answer: what it said.
        item_of: normal form of a title -> item.
    """
    reading = Reading()
    for entry in _json_entries(answer) or _lines(answer):
        reading.add(_titled(entry, item_of))
    return reading


def read_ranking(answer: str, titles: list[str]) -> Reading:
    """A ranking of listed candidates, by their numbers or their titles.

    A title counts before a number, since a number before a title may be its place in the ranking. Numbers before what
    is no candidate's title are such places if they go 1, 2, 3 ..., else candidates. Where no line says anything,
    numbers in brackets are looked for within the text, then titles.

    Args:
        answer: what the model said.
        titles: of candidates 1, 2, ...
    """
    place_of: dict[str, int] = {}
    for place, title in enumerate(titles):
        place_of.setdefault(normal(title), place)
    lines = _json_entries(answer) or _lines(answer)
    leading = [int(match[1]) for line in lines if (match := re.match(r"\W*(\d+)\s*[).:\-]\s+\S*[^\W\d]", line))]
    ordinals = leading == list(range(1, len(leading) + 1))
    reading = Reading()
    for line in lines:
        for what in _entries(line, place_of, titles, ordinals):
            reading.add(what)
    if not reading.found:
        text = " ".join(lines)
        for places in ([_numbered(number, titles) for number in re.findall(r"\[\s*#?(\d+)\s*\]", text)],
                       _within(normal(text), place_of)):
            if places:
                reading = Reading()
                for place in places:
                    reading.add(place)
                break
    return reading


def _entries(line: str, place_of: Mapping[str, int], titles: list[str], ordinals: bool) -> list[int | None]:
    """The candidates that a line names, None for each that there is not; nothing for prose."""
    joined = re.sub(r"\b(?:and|then)\b", " ", line)
    alone = re.fullmatch(r"\W*(\d+)\W*", joined)
    if alone and (number := _numbered(alone[1], titles)) is not None:
        return [number]
    if (place := place_of.get(normal(line))) is not None:
        return [place]
    if match := re.fullmatch(r"\s*\d+\s*[).:]\s+\W*(\d+)\W*", joined):  # "2. 17": the second is the 17th
        return [_numbered(match[1], titles)]
    if _NUMBERS.fullmatch(joined):
        return [_numbered(number, titles) for number in re.findall(r"\d+", joined)]
    rest = line[_ORDINAL.match(line).end():]
    for text in (line, rest):
        if match := _BRACKETED.match(text):
            number, title = _numbered(match[1], titles), normal(match[2])
            if title in place_of and (number is None or normal(titles[number]) != title):
                return [place_of[title]]
            return [number]
    if rest != line and (title := normal(rest)) in place_of:
        number = _numbered(re.findall(r"\d+", line)[0], titles) if re.match(r"\W*\d", line) else None
        return [number if number is not None and normal(titles[number]) == title else place_of[title]]
    if (found := re.match(r"\W*(\d+)\s*[).:\-]\s", line)) is not None:
        return [None if ordinals else _numbered(found[1], titles)]
    if ":" in line:
        tail = line.rsplit(":", 1)[1]
        if _NUMBERS.fullmatch(re.sub(r"\b(?:and|then)\b", " ", tail)):
            return [_numbered(number, titles) for number in re.findall(r"\d+", tail)]
        if (place := place_of.get(normal(tail))) is not None:
            return [place]
    return [None] if rest != line else []


def _numbered(number: str, titles: list[str]) -> int | None:
    return int(number) - 1 if len(number) < 10 and 1 <= int(number) <= len(titles) else None


def _titled(line: str, item_of: Mapping[str, int]) -> int | None:
    """The item of a line that may be numbered; the line as it stands first, as "12 Monkeys" is a title."""
    for text in (line, line[_ORDINAL.match(line).end():]):
        if (item := item_of.get(normal(text))) is not None:
            return item
    return None


def _within(text: str, place_of: Mapping[str, int]) -> list[int]:
    """Candidates whose titles stand in a text, in its order; of titles that overlap the first and longest."""
    spans = sorted((match.start(), -match.end(), place) for title, place in place_of.items() if len(title) >= _SHORTEST
                   for match in re.finditer(rf"(?<!\w){re.escape(title)}(?!\w)", text))
    found, end = [], 0
    for begin, minus_end, place in spans:
        if begin >= end:
            found.append(place)
            end = -minus_end
    return found


def _lines(answer: str) -> list[str]:
    """The lines that may hold an entry: no thinking aloud, no fences, no heading that ends with a colon."""
    return [line.strip() for line in _spoken(answer).splitlines()
            if line.strip() and not line.strip().startswith("```") and not line.strip(" *").endswith(":")]


def _json_entries(answer: str) -> list[str] | None:
    """The entries of an answer that is a JSON list of texts or numbers, else None."""
    text = re.sub(r"^```\w*|```$", "", _spoken(answer).strip()).strip()
    if not text.startswith("["):
        return None
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    plain = isinstance(entries, list) and all(isinstance(entry, (str, int)) for entry in entries)
    return [str(entry) for entry in entries] if plain else None


def _spoken(answer: str) -> str:
    """An answer without what a reasoning model thinks first; of one that never ends thinking nothing is left."""
    return re.sub(r"<think>.*?(?:</think>|\Z)", "", answer, flags=re.DOTALL)
