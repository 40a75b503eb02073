"""What a reader should know about a converted data set: counts, expectations, a summary."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from .corpus import ATTRIBUTES, CATEGORIES, UNKNOWN_TIME, Corpus, repeats, tied_pairs
from .reading import ConversionError

EXPECTABLE = ("read", "users", "items", "interactions")  # read: interactions before filters


def count(corpus: Corpus, without_interactions: int = 0) -> dict[str, Any]:
    """The counts of the report; ties and orders are those of the source.

    ``without_interactions``: lines of metadata about items that have none in the source, before
    any filter (some sources skip such lines unread, so that their titles are not compared).
    """
    user, time = corpus.user, corpus.time
    lengths = np.bincount(user, minlength=len(corpus.users))
    same_user = user[1:] == user[:-1]
    tied = tied_pairs(corpus)
    last_pair = same_user & np.append(~same_user[1:], True)[: len(tied)]
    known = time != UNKNOWN_TIME
    backwards = same_user & known[:-1] & known[1:] & (time[1:] < time[:-1])
    items = corpus.items.to_pylist()
    titles = [corpus.titles.get(item, "") for item in items]
    sharing = Counter(title for title in titles if title)
    untitled = np.array([not title for title in titles])
    pairs = int((same_user & known[1:] & known[:-1]).sum())
    counts = {
        "users": len(corpus.users),
        "items": len(items),
        "interactions": len(user),
        "min_sequence_length": int(lengths.min()),
        "max_sequence_length": int(lengths.max()),
        "repeats": repeats(corpus),
        "items_without_title": int(untitled.sum()),
        "interactions_without_title": int(untitled[corpus.item].sum()),
        "distinct_titles": len(sharing),
        "items_sharing_title": sum(n for n in sharing.values() if n > 1),
        "titles_without_interactions": without_interactions,
    }
    for header in dict.fromkeys([CATEGORIES, ATTRIBUTES, *list(corpus.columns)[1:]]):
        texts = corpus.columns.get(header, {})
        name = header.partition(":")[0]
        counts[f"items_with_{name}"] = sum(bool(texts.get(item)) for item in items)
    return {
        **counts,
        "users_without_times": len(corpus.users) - len(np.unique(user[known])),
        "users_with_unordered_times": len(np.unique(user[1:][backwards])),
        "timed_pairs": pairs,
        "tied_pairs": int(tied.sum()),
        "tied_pairs_share": round(int(tied.sum()) / pairs, 6) if pairs else None,
        "users_with_tied_last_pair": int((tied & last_pair).sum()),
    }


def expectation(text: str) -> dict[str, int]:
    """argparse type: ``users=U,items=I,interactions=N,read=R``, any of them."""
    parts = [part.partition("=")[::2] for part in text.split(",")]
    pairs = dict(parts)
    if len(pairs) < len(parts):
        raise argparse.ArgumentTypeError(f"{text} names a count twice")
    if not set(pairs) <= set(EXPECTABLE) or not all(n.isdecimal() for n in pairs.values()):
        raise argparse.ArgumentTypeError(f"{text} is not like users=1,items=2,interactions=3")
    return {key: int(value) for key, value in pairs.items()}


def check_expected(counts: Mapping[str, Any], expected: Mapping[str, int]) -> None:
    """Raise ConversionError, naming every difference, if ``counts`` are not as ``expected``."""
    wrong = [
        f"{counts[key]} {key} instead of {n}" for key, n in expected.items() if counts[key] != n
    ]
    if wrong:
        raise ConversionError(f"not the expected data set: {', '.join(wrong)}")


def summary(report: Mapping[str, Any], target: Path) -> str:
    """A few lines on what was written and what a reader should know about it."""
    n = report["counts"]
    lines = [
        f"{report['name']}: {n['users']:,} users, {n['items']:,} items, "
        f"{n['interactions']:,} interactions ({n['min_sequence_length']}-"
        f"{n['max_sequence_length']} a user, {n['repeats']:,} repeats)",
        f"  titles: {n['items_without_title']:,} items have none, "
        f"{n['items_sharing_title']:,} share theirs, "
        f"{n['titles_without_interactions']:,} titles have no interaction in the source",
    ]
    if n["timed_pairs"]:
        lines.append(
            f"  times: {n['users_without_times']:,} users have none, "
            f"{n['tied_pairs_share']:.1%} of neighbouring pairs are tied, "
            f"{n['users_with_unordered_times']:,} users are out of order"
        )
    for step in report["filters"] if len(report["filters"]) > 1 else ():
        lines.append(
            f"  {step['filter']}: {step['users']:,} users, {step['items']:,} items, "
            f"{step['interactions']:,} interactions"
        )
    for text, number in report["notes"].items():
        if number:
            lines.append(f"  {text.replace('_', ' ')}: {number:,}")
    for file in _files(report["inputs"]):
        if file["encoding"] != "utf-8":
            lines.append(f"  {file['file']}: not UTF-8, read as Latin-1")
    rejects = report["rejects"]
    more = rejects["not_listed"]
    lines.append(
        f"  rejected lines: {rejects['count']:,} of {report['lines_read']:,}"
        + (f" ({more:,} of them not listed in conversion.json)" if more else "")
    )
    return "\n".join([*lines, f"  written to {target}"])


def same_files(inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of input files with the same content: most likely one was meant to be another."""
    seen: dict[str, str] = {}
    pairs = []
    for file in _files(inputs):
        if file["sha256"] in seen:
            pairs.append((seen[file["sha256"]], file["file"]))
        seen.setdefault(file["sha256"], file["file"])
    return pairs


def _files(inputs: Mapping[str, Any]) -> list[Mapping[str, str]]:
    lists = (entry if isinstance(entry, list) else [entry] for entry in inputs.values())
    return [file for files in lists for file in files]
