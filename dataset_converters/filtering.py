"""Which interactions are kept: steps in a fixed order, each with the counts that it left."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, fields
from datetime import date, datetime, timezone
from typing import Any, Callable, Iterator

import numpy as np
import pyarrow as pa

from .corpus import UNKNOWN_TIME, Corpus, occurrence
from .ordering import hash_ids
from .reading import ConversionError

_DAY = 24 * 3600
REPEATS = ("keep", "first", "last")
ORDER = """Filters are applied in the order in which they are listed. Times are UTC."""


@dataclass(frozen=True)
class Filters:
    """The options, in the order in which they are applied; None and "keep" do nothing.

    ``sample_users``, ``sample_items``: a whole number (so many) or a float (that share); chosen
    by a seeded hash of the id, so that neither the file's order nor a target has a say.
    """

    min_rating: float | None = None
    since: date | None = None
    until: date | None = None
    repeats: str = "keep"
    sample_users: int | float | None = None
    sample_items: int | float | None = None
    sample_seed: int = 2023
    drop_untitled: bool = False
    user_core: int | None = None
    item_core: int | None = None
    min_title_coverage: float | None = 0.0  # None: at least one item

    @property
    def samples(self) -> bool:
        return self.sample_users is not None or self.sample_items is not None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Filters:
        """From parsed arguments; ``k_core`` stands for both cores where they are not given."""
        values = {field.name: getattr(args, field.name) for field in fields(cls)}
        for core in ("user_core", "item_core"):
            values[core] = values[core] or args.k_core
        return cls(**values)


def add_arguments(group: argparse._ActionsContainer) -> None:
    """Add the options to an argparse group."""
    def add(name: str, **settings: Any) -> None:
        underscored = "--" + name[2:].replace("-", "_")
        group.add_argument(*dict.fromkeys([name, underscored]), **settings)

    add("--min-rating", type=_number, metavar="R", help="interactions rated R or better")
    add("--since", type=_day, metavar="DATE", help="not before DATE (2019-01-01)")
    add("--until", type=_day, metavar="DATE", help="not after DATE: that day is the last")
    add("--repeats", choices=REPEATS, default="keep",
        help="the same user and item again: keep all (default), the first or the last")
    add("--sample-users", type=_amount, metavar="N", help="N users, or a share of them (0.1)")
    add("--sample-items", type=_amount, metavar="N", help="N items, or a share of them")
    add("--sample-seed", type=int, default=2023, metavar="INT", help="default %(default)s")
    add("--drop-untitled", action="store_true", help="leave out items that have no title")
    add("--user-core", type=_positive, metavar="K",
        help="users with K interactions or more; with --item-core until both hold")
    add("--item-core", type=_positive, metavar="K", help="items with K interactions or more")
    add("--k-core", type=_positive, metavar="K", help="both cores, where not given themselves")
    add("--min-title-coverage", type=share, metavar="SHARE",
        help="fail if a smaller share of the items has a title at the end (default: fail if "
        "none has one)")  # fmt: skip


def apply(corpus: Corpus, filters: Filters) -> tuple[Corpus, list[dict[str, Any]]]:
    """The filtered corpus and ``{filter, users, items, interactions}`` after each step.

    Raises ConversionError where an option needs ratings or times that the source has not, where
    nothing is left, or where too few items have a title.
    """
    steps = [_counts("source", corpus)]
    for name, rows in _steps(filters):
        chosen = rows(corpus)
        if not chosen.all():
            corpus = corpus.rows(chosen).compact()
        steps.append(_counts(name, corpus))
        if not len(corpus.user):
            raise ConversionError(f"no interactions are left after {name}")
    _check_titles(corpus, filters.min_title_coverage)
    return corpus, steps


def _counts(name: str, corpus: Corpus) -> dict[str, Any]:
    sizes = len(corpus.users), len(corpus.items), len(corpus.user)
    return {"filter": name, **dict(zip(("users", "items", "interactions"), sizes))}


def _steps(f: Filters) -> Iterator[tuple[str, Callable[[Corpus], np.ndarray]]]:
    """The wanted steps: a name and a function to a bool mask ``[n]`` of the rows to keep."""
    if f.min_rating is not None:
        with np.errstate(over="ignore"):  # above all that a float32 can hold is above all ratings
            least = np.float32(f.min_rating)
        yield f"--min-rating {f.min_rating:g}", lambda c: _ratings(c) >= least
    if f.since or f.until:
        window = [f"--{name} {day}" for name in ("since", "until") if (day := getattr(f, name))]
        yield " ".join(window), lambda c: _in_window(c, f.since, f.until)
    if f.repeats != "keep":
        yield f"--repeats {f.repeats}", lambda c: once(c, f.repeats)
    if f.sample_users is not None:
        yield f"--sample-users {f.sample_users}", lambda c: _sampled(
            c.users, "sample user", f.sample_users, f.sample_seed)[c.user]  # fmt: skip
    if f.sample_items is not None:
        yield f"--sample-items {f.sample_items}", lambda c: _sampled(
            c.items, "sample item", f.sample_items, f.sample_seed)[c.item]  # fmt: skip
    if f.drop_untitled:
        yield "--drop-untitled", lambda c: ~c.untitled()[c.item]
    if f.user_core or f.item_core:
        users, items = f.user_core or 1, f.item_core or 1
        yield f"--user-core {users} --item-core {items}", lambda c: core(c, users, items)


def _ratings(corpus: Corpus) -> np.ndarray:
    if corpus.rating is None:
        raise ConversionError("--min-rating needs ratings, and there are none")
    return corpus.rating


def _in_window(corpus: Corpus, since: date | None, until: date | None) -> np.ndarray:
    """Rows within two days, both included; a row without a time is in no window."""
    chosen = corpus.time != UNKNOWN_TIME
    if not chosen.any():
        raise ConversionError("--since and --until need timestamps, and there are none")
    if since:
        chosen &= corpus.time >= _seconds(since) * corpus.per_second
    if until:
        chosen &= corpus.time < (_seconds(until) + _DAY) * corpus.per_second
    return chosen


def _seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp())


def once(corpus: Corpus, which: str) -> np.ndarray:
    """bool ``[n]``: the "first" or "last" row of its user and item."""
    if which == "first":
        return occurrence(corpus) == 0
    backwards = np.arange(len(corpus.user))[::-1]
    return (occurrence(corpus.rows(backwards)) == 0)[::-1]


def _sampled(names: pa.Array, purpose: str, amount: int | float, seed: int) -> np.ndarray:
    """bool ``[len(names)]``: the names with the smallest hashes, or below a share of all hashes."""
    hashes = hash_ids(names, purpose, seed)
    if isinstance(amount, float):
        return hashes < int(amount * 2**64) if amount < 1 else np.ones(len(names), dtype=bool)
    chosen = np.zeros(len(names), dtype=bool)
    chosen[np.argsort(hashes, kind="stable")[:amount]] = True
    return chosen


def core(corpus: Corpus, users: int, items: int) -> np.ndarray:
    """bool ``[n]``: the largest set of rows in which every user has at least ``users`` rows and
    every item at least ``items``."""
    rows, before = np.arange(len(corpus.user)), -1
    while len(rows) != before:
        before = len(rows)
        enough = np.bincount(corpus.item[rows]) >= items
        rows = rows[enough[corpus.item[rows]]]
        enough = np.bincount(corpus.user[rows]) >= users
        rows = rows[enough[corpus.user[rows]]]
    chosen = np.zeros(len(corpus.user), dtype=bool)
    chosen[rows] = True
    return chosen


def _check_titles(corpus: Corpus, least: float | None) -> None:
    titled = int((~corpus.untitled()).sum())
    if least is None:
        if titled == 0:
            raise ConversionError(
                f"not one of {len(corpus.items)} items has a title: do the files belong together? "
                "(--min-title-coverage 0 lets it pass)"
            )
        return
    if titled < least * len(corpus.items):
        raise ConversionError(
            f"{titled} of {len(corpus.items)} items have a title, a smaller share than "
            f"--min-title-coverage {least:g}"
        )


# --- argument types


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return value


def _day(text: str) -> date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise argparse.ArgumentTypeError(f"{text} is no date of the form 2019-12-31")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no date of the calendar") from None


def _amount(text: str) -> int | float:
    if re.fullmatch(r"[1-9]\d*", text):
        return int(text)
    if re.fullmatch(r"(0?\.\d+|1\.0*)", text) and float(text) > 0:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text} is neither a whole number nor a share such as 0.1")


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
    return int(text)


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
