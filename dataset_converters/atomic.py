"""The one writer: a corpus in, a RecBole data set folder with its report out, all or nothing.

``<output>/<name>/`` holds raw tab-separated UTF-8 without quoting (a quote is an ordinary
character, an empty field is a missing value):

- ``<name>.inter``: ``user_id:token item_id:token position:float timestamp:float``, rows grouped
  by user; ``position`` is 1..n within the user, ``timestamp`` Unix seconds or empty;
- ``<name>.item``: ``item_id:token title:token categories:token_seq attributes:token_seq``, one
  row for each item that occurs in the interactions, by id;
- ``conversion.json``: arguments, counts, rejects, checksums. No clock and no path: the same
  input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Literal, Mapping, NamedTuple

import numpy as np
import pandas as pd

from . import __version__
from .reading import ConversionError, Rejects

UNKNOWN_TIME = int(np.iinfo(np.int64).min)
TIE_ORDERS = ("source", "hash")
_BLOCK = 1 << 17  # rows turned into text at once: bounds the memory of a big data set
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # what str.splitlines splits at
_REPORT = "conversion.json"


@dataclass
class Corpus:
    """What a source hands to the writer.

    ``user``, ``item`` (int32 codes into ``users`` and ``items``) and ``time`` (int64 Unix
    seconds or ``UNKNOWN_TIME``) have one entry per interaction, grouped by user in the order of
    ``users`` and within a user in the order of the source. The tables by item id may lack items
    and hold others. ``inputs`` describes the files for the report.
    """

    users: list[str]
    items: list[str]
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    titles: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, list[str]] = field(default_factory=dict)
    attributes: Mapping[str, list[str]] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)


class TieOrder(NamedTuple):
    """The order of one user's neighbouring items at one time: of the source, or by a hash."""

    kind: Literal["source", "hash"]
    seed: int


def claim(output: str, name: str, force: bool) -> Path:
    """The folder to write, checked before any work; nothing is created.

    Raises ConversionError if ``name`` is no plain folder name, or if the folder exists and
    ``force`` is false or it is not an earlier conversion (anything else is never deleted).
    """
    if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f]", name):
        raise ConversionError(f"--name {name!r} is not a plain folder name")
    target = Path(output, name).resolve()  # through a link, the folder behind it is replaced
    shown = Path(output, name)
    if target.exists():
        if not force:
            raise ConversionError(f"{shown}: exists already (--force replaces it)")
        if not (target / _REPORT).is_file():
            raise ConversionError(f"{shown}: has no {_REPORT}, so --force will not replace it")
    return target


def write(
    corpus: Corpus, target: Path, name: str, source: str, order: TieOrder, rejects: Rejects
) -> dict[str, Any]:
    """Write ``corpus`` to the folder ``target`` and return the report (``conversion.json``).

    The folder appears complete or not at all. Raises ConversionError for a corpus without
    interactions, an id that holds a tab or a line break, or ``hash`` without any timestamp.
    """
    if not corpus.user.size:
        raise ConversionError("no interactions in the input")
    assert (np.diff(corpus.user) >= 0).all(), "rows must be grouped by user"
    counts = _count(corpus)
    if order.kind == "hash":
        corpus = _break_ties(corpus, order.seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    folder.mkdir()
    try:
        outputs = {
            f"{name}.inter": _write_text(folder / f"{name}.inter", _interaction_blocks(corpus)),
            f"{name}.item": _write_text(folder / f"{name}.item", [_item_table(corpus)]),
        }
        report = {
            "converter": __version__,
            "source": source,
            "name": name,
            "inputs": dict(corpus.inputs),
            "tie_order": order.kind,
            "tie_seed": order.seed if order.kind == "hash" else None,
            "max_rejects": rejects.limit,
            "counts": counts,
            "rejects": {"count": rejects.count, "lines": rejects.lines},
            "outputs": outputs,
        }
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        _write_text(folder / _REPORT, [text])
        _replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _replace(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``. A folder in the way steps aside until that is done:
    a directory cannot be renamed over one that has content."""
    old = folder.with_suffix(".old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(folder, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _break_ties(corpus: Corpus, seed: int) -> Corpus:
    """Reorder each run of neighbouring rows of one user with one known time by a seeded hash
    of (user, item, how often the item came before): the same on every machine."""
    time, user = corpus.time, corpus.user
    if (time == UNKNOWN_TIME).all():
        raise ConversionError("--tie_order hash needs timestamps, and there are none")
    tied = _tied_pairs(corpus)
    run = np.concatenate([[0], np.cumsum(~tied)])
    in_run = np.concatenate([[False], tied]) | np.concatenate([tied, [False]])
    occurrence = _occurrence(corpus)
    key = np.zeros(len(time), dtype=np.uint64)
    for row in np.flatnonzero(in_run):
        parts = (seed, corpus.users[user[row]], corpus.items[corpus.item[row]], occurrence[row])
        digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
        key[row] = int.from_bytes(digest, "big")
    # Runs are numbered in row order, so all rows outside a run stay where they are.
    rows = np.lexsort((key, run))
    return Corpus(**{**vars(corpus), "item": corpus.item[rows], "time": time[rows]})


def _tied_pairs(corpus: Corpus) -> np.ndarray:
    """bool [rows - 1]: row i and row i + 1 are of one user and of one known time."""
    same_time = np.diff(corpus.time) == 0
    return same_time & (np.diff(corpus.user) == 0) & (corpus.time[1:] != UNKNOWN_TIME)


def _occurrence(corpus: Corpus) -> np.ndarray:
    """int [rows]: how often the user had the row's item before."""
    rows = pd.DataFrame({"user": corpus.user, "item": corpus.item})
    return rows.groupby(["user", "item"], sort=False).cumcount().to_numpy()


def _count(corpus: Corpus) -> dict[str, Any]:
    """The counts of the report; ties and orders are those of the source."""
    user, time = corpus.user, corpus.time
    lengths = np.bincount(user, minlength=len(corpus.users))
    same_user = np.diff(user) == 0
    tied = _tied_pairs(corpus)
    last_pair = np.concatenate([~same_user[1:], [True]])[: len(tied)] & same_user
    known = time != UNKNOWN_TIME
    # Comparing, not subtracting: a difference with UNKNOWN_TIME overflows.
    backwards = same_user & known[:-1] & known[1:] & (time[1:] < time[:-1])
    titles = [corpus.titles.get(item, "") for item in corpus.items]
    sharing = Counter(title for title in titles if title)
    untitled = np.array([not title for title in titles])
    pairs = int((same_user & known[1:] & known[:-1]).sum())
    present = set(corpus.items)
    return {
        "users": len(corpus.users),
        "items": len(corpus.items),
        "interactions": len(user),
        "min_sequence_length": int(lengths.min()),
        "max_sequence_length": int(lengths.max()),
        "repeats": int((_occurrence(corpus) > 0).sum()),
        "items_without_title": int(untitled.sum()),
        "interactions_without_title": int(untitled[corpus.item].sum()),
        "distinct_titles": len(sharing),
        "items_sharing_title": sum(n for n in sharing.values() if n > 1),
        "titles_without_interactions": sum(item not in present for item in corpus.titles),
        "items_with_categories": sum(bool(corpus.categories.get(i)) for i in corpus.items),
        "items_with_attributes": sum(bool(corpus.attributes.get(i)) for i in corpus.items),
        "users_without_times": len(corpus.users) - len(np.unique(user[known])),
        "users_with_unordered_times": len(np.unique(user[1:][backwards])),
        "timed_pairs": pairs,
        "tied_pairs": int(tied.sum()),
        "tied_pairs_share": round(int(tied.sum()) / pairs, 6) if pairs else None,
        "users_with_tied_last_pair": int((tied & last_pair).sum()),
    }


def _interaction_blocks(corpus: Corpus) -> Iterator[str]:
    yield "user_id:token\titem_id:token\tposition:float\ttimestamp:float\n"
    users, items = _checked(corpus.users, "user id"), _checked(corpus.items, "item id")
    starts = np.searchsorted(corpus.user, np.arange(len(users)))
    for begin in range(0, len(corpus.user), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        codes = corpus.user[rows]
        positions = np.arange(begin, begin + len(codes)) - starts[codes] + 1
        columns = (codes, corpus.item[rows], positions, corpus.time[rows])
        yield "".join(
            f"{users[u]}\t{items[i]}\t{position}\t{'' if time == UNKNOWN_TIME else time}\n"
            for u, i, position, time in zip(*(column.tolist() for column in columns))
        )


def _item_table(corpus: Corpus) -> str:
    # By id: the order of first appearance would number items by what follows what.
    items = sorted(corpus.items)
    fields = (
        items,
        _checked((corpus.titles.get(item, "") for item in items), "title"),
        _checked((" ".join(corpus.categories.get(item, ())) for item in items), "category"),
        _checked((" ".join(corpus.attributes.get(item, ())) for item in items), "attribute"),
    )
    header = "item_id:token\ttitle:token\tcategories:token_seq\tattributes:token_seq"
    return "\n".join([header, *map("\t".join, zip(*fields))]) + "\n"


def _checked(values: Iterable[str], what: str) -> list[str]:
    values = list(values)
    if wrong := next(filter(_BREAKS.search, values), None):
        raise ConversionError(f"{what} {wrong!r} holds a tab or a line break")
    return values


def _write_text(path: Path, blocks: Iterable[str]) -> str:
    """Write UTF-8 text with ``\\n`` line ends; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            data = block.encode()
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def summary(report: Mapping[str, Any], target: Path) -> str:
    """A few lines on what was written and what a reader should know about it."""
    n = report["counts"]
    lines = [
        f"{report['name']}: {n['users']:,} users, {n['items']:,} items, "
        f"{n['interactions']:,} interactions ({n['min_sequence_length']}-"
        f"{n['max_sequence_length']} a user, {n['repeats']:,} repeats)",
        f"  titles: {n['items_without_title']:,} items have none, "
        f"{n['items_sharing_title']:,} share theirs, "
        f"{n['titles_without_interactions']:,} titles have no interaction",
    ]
    if n["timed_pairs"]:
        lines.append(
            f"  times: {n['users_without_times']:,} users have none, "
            f"{n['tied_pairs_share']:.1%} of neighbouring pairs are tied, "
            f"{n['users_with_unordered_times']:,} users are out of order"
        )
    for file in report["inputs"].values():
        if file["encoding"] != "utf-8":
            lines.append(f"  {file['file']}: not UTF-8, read as Latin-1")
    lines.append(f"  rejected lines: {report['rejects']['count']:,}")
    return "\n".join([*lines, f"  written to {target}"])
