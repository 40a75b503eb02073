"""The one writer: a corpus in, a RecBole data set folder with its report out, all or nothing.

``<output>/<name>/`` holds raw tab-separated UTF-8 without quoting (a quote is an ordinary
character, an empty field is a missing value):

- ``<name>.inter``: ``user_id:token item_id:token position:float timestamp:float`` and, where the
  source has ratings, ``rating:float``; ``position`` is 1..n within the user, ``timestamp`` Unix
  seconds or empty. Rows are grouped by user, or with shuffled item ids by item: RecBole numbers
  items by their first appearance in this file, which then follows the shuffled order too;
- ``<name>.item``: ``item_id:token title:token categories:token_seq attributes:token_seq`` and
  what else the source has, one row for each item that occurs in the interactions, by id;
- ``conversion.json``: arguments, counts, rejects, checksums. No clock and no path: the same
  input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import __version__, ordering
from .corpus import ATTRIBUTES, CATEGORIES, TITLE, UNKNOWN_TIME, Corpus
from .filtering import Filters, apply
from .ordering import TieOrder
from .parsing import BREAKS
from .reading import ConversionError, Rejects
from .report import check_expected, count
from .staging import Staging

_BLOCK = 1 << 18  # rows turned into text at once: bounds the memory of a big data set
_REPORT = "conversion.json"
_NAME = re.compile(r"\w[\w.+-]{0,99}")  # what the recommenders take as the name of a data set


@dataclass(frozen=True)
class Options:
    """What is made of a corpus; the defaults change nothing.

    ``id_seed`` is used for shuffled item ids only. ``expected`` holds any of users, items,
    interactions, and read (interactions before the filters).
    """

    tie_order: TieOrder = TieOrder("source", 2023)
    item_ids: str = "source"
    id_seed: int = 2023
    filters: Filters = Filters()
    expected: Mapping[str, int] = field(default_factory=dict)


def claim(output: str, name: str, force: bool) -> Path:
    """The folder to write, checked before any work; nothing is created.

    Raises ConversionError if ``name`` is no name of a data set, or if the folder exists and
    ``force`` is false or it is not an earlier conversion and nothing else (what we did not
    write, we never delete).
    """
    if not _NAME.fullmatch(name):
        raise ConversionError(
            f"--name {name!r} is not a plain folder name: up to 100 letters, digits and . _ + - "
            "of which the first is a letter, a digit or _"
        )
    shown = Path(output, name)
    try:
        target = shown.resolve()  # through a link, the folder behind it is replaced
    except (OSError, RuntimeError):  # the latter before Python 3.13
        raise ConversionError(f"{shown}: a link that leads nowhere") from None
    if target.is_symlink():
        raise ConversionError(f"{shown}: a link that leads nowhere")
    if target.exists():
        if not force:
            raise ConversionError(f"{shown}: exists already (--force replaces it)")
        _check_ours(shown)
    return target


def _check_ours(folder: Path) -> None:
    """Raise ConversionError unless the folder holds a conversion and nothing else."""
    no_conversion = f"{folder}: has no {_REPORT} of a conversion, so --force will not replace it"
    if not folder.is_dir():
        raise ConversionError(no_conversion)
    try:
        report = json.loads((folder / _REPORT).read_bytes())
    except (OSError, ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or "converter" not in report:
        raise ConversionError(no_conversion)
    outputs = report.get("outputs")
    if not isinstance(outputs, dict):
        raise ConversionError(no_conversion)
    for entry in sorted(folder.iterdir()):
        ours = entry.name in outputs or entry.name == _REPORT
        if not ours or entry.is_symlink() or not entry.is_file():
            raise ConversionError(
                f"{folder}: holds {entry.name}, which is not of the conversion, so --force will "
                "not replace it"
            )


def write(
    corpus: Corpus, staging: Staging, name: str, source: str, options: Options, rejects: Rejects
) -> dict[str, Any]:
    """Write ``corpus`` to the folder ``staging.target``; return the report (conversion.json).

    The folder appears complete or not at all. Raises ConversionError for a corpus without
    interactions, an id that holds a tab or a line break, an option that needs what the source
    has not, or counts that are not the expected ones.
    """
    if not corpus.user.size:
        raise ConversionError("no interactions in the input")
    assert (np.diff(corpus.user) >= 0).all(), "rows must be grouped by user"
    present = set(corpus.items.to_pylist())
    described = corpus.lines_of_others + sum(item not in present for item in corpus.titles)
    corpus, steps = apply(corpus, options.filters)
    counts = {"read": steps[0]["interactions"], **count(corpus, described)}
    check_expected(counts, options.expected)
    tie_order, shuffled = options.tie_order, options.item_ids == "shuffled"
    if tie_order.kind == "hash":
        corpus = ordering.break_ties(corpus, tie_order.seed)
    if shuffled:
        corpus = ordering.shuffle_items(corpus, options.id_seed)
    folder = staging.output()
    outputs = {
        f"{name}.inter": _write_text(folder / f"{name}.inter", _interactions(corpus, shuffled)),
        f"{name}.item": _write_text(folder / f"{name}.item", [_item_table(corpus, shuffled)]),
    }
    report = {
        "converter": __version__,
        "source": source,
        "name": name,
        "inputs": dict(corpus.inputs),
        "filters": steps,
        "sample_seed": options.filters.sample_seed if options.filters.samples else None,
        "tie_order": tie_order.kind,
        "tie_seed": tie_order.seed if tie_order.kind == "hash" else None,
        "item_ids": options.item_ids,
        "id_seed": options.id_seed if shuffled else None,
        "min_title_coverage": options.filters.min_title_coverage,
        "expect": dict(options.expected),
        "max_rejects": rejects.limit,
        "lines_read": rejects.lines_read,
        "counts": counts,
        "notes": dict(corpus.notes),
        "rejects": {
            "count": rejects.count,
            "not_listed": rejects.count - len(rejects.lines),
            "lines": rejects.lines,
        },
        "outputs": outputs,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    _write_text(folder / _REPORT, [text.encode()])
    staging.publish()
    return report


def _interactions(corpus: Corpus, by_item: bool) -> Iterator[bytes]:
    header = "user_id:token\titem_id:token\tposition:float\ttimestamp:float"
    yield (header + ("" if corpus.rating is None else "\trating:float") + "\n").encode()
    users, items = _checked(corpus.users, "user id"), _checked(corpus.items, "item id")
    starts = np.searchsorted(corpus.user, np.arange(len(users)))
    order = np.lexsort((corpus.user, corpus.item)) if by_item else np.arange(len(corpus.user))
    for begin in range(0, len(order), _BLOCK):
        rows = order[begin : begin + _BLOCK]
        user = corpus.user[rows]
        columns = [
            users.take(pa.array(user)),
            items.take(pa.array(corpus.item[rows])),
            pa.array(rows - starts[user] + 1).cast(pa.string()),
            _time_texts(corpus.time[rows], corpus.per_second),
        ]
        if corpus.rating is not None:
            columns.append(pa.array(corpus.rating[rows]).cast(pa.string()))
        lines = pc.binary_join_element_wise(*columns, "\t")
        text = pc.binary_join_element_wise(lines, "", "\n")  # each line ends in the separator
        yield text.buffers()[2].to_pybytes()


def _time_texts(time: np.ndarray, per_second: int) -> pa.Array:
    """Seconds with as many decimals as they have, "" where unknown."""
    known = time != UNKNOWN_TIME
    exact = per_second == 1 or not (time[known] % per_second).any()
    seconds = time // per_second if exact else time / per_second
    return pa.array(seconds, mask=~known).cast(pa.string()).fill_null("")


def _item_table(corpus: Corpus, numbered: bool) -> bytes:
    # By id: the order of first appearance would number items by what follows what.
    ids = corpus.items.to_pylist()
    items = ids if numbered else sorted(ids)
    headers = list(dict.fromkeys([TITLE, CATEGORIES, ATTRIBUTES, *corpus.columns]))
    table = [pa.array(items, pa.string())]
    for header in headers:
        texts = corpus.columns.get(header, {})
        column = pa.array([texts.get(item, "") for item in items], pa.string())
        table.append(_checked(column, header.partition(":")[0]))
    lines = pc.binary_join_element_wise(*table, "\t").to_pylist()
    return ("\n".join(["\t".join(["item_id:token", *headers]), *lines]) + "\n").encode()


def _checked(texts: pa.Array, what: str) -> pa.Array:
    wrong = texts.filter(pc.match_substring_regex(texts, BREAKS))
    if len(wrong):
        raise ConversionError(f"{what} {wrong[0].as_py()!r} holds a tab or a line break")
    return texts


def _write_text(path: Path, blocks: Iterable[bytes]) -> str:
    """Write the blocks; return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
