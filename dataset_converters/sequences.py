"""Ready-made user sequences ("user item item ..." in time order) with an item-title table.

The form in which the splits of S3-Rec, P5 and their followers circulate. Files, one record a
line, ids without ASCII blanks, blank lines ignored:

- sequences: ``user item item ...`` in time order;
- timestamps: ``user t t ...`` in Unix seconds; the n-th line belongs to the n-th line of the
  sequences, the k-th time to the k-th item. A line with the user alone: times unknown;
- titles: ``item<TAB>title``, the title may be empty; or MovieLens' ``movies.dat``
  (``id::Title, The (Year)::Genre|Genre``), whose articles go to the front;
- categories: JSON lines ``{"<id key>": id, "categories": [name, ...] or [[path], ...]}``;
- attributes: ``item<TAB>id id ...``.
"""

from __future__ import annotations

import argparse
import json
import re
from array import array
from collections import defaultdict
from itertools import zip_longest
from typing import Iterator

import numpy as np
import pyarrow as pa

from .corpus import ATTRIBUTES, CATEGORIES, TITLE, UNKNOWN_TIME, Corpus
from .movielens import split_dat
from .parsing import BREAKS, LATEST
from .reading import BLANKS, InputFile, Rejects
from .staging import Staging
from .titles import clean_title, natural_order, token_names

EXAMPLES = """example:
  python -m dataset_converters sequences --sequences user_sequences.txt.gz \\
      --timestamps user_timestamps.txt.gz --titles item_titles.tsv.gz \\
      --tie_order hash --item_ids shuffled --output dataset --name amazon-toys
"""

_FIELD = re.compile(f"[^{BLANKS}]+")
_BREAK = re.compile(BREAKS.replace("\t", "").replace("\v\f\r", ""))  # BLANKS separate ids
_SECONDS = re.compile(r"-?[0-9]{1,18}")  # fits an int64; int() would also take "1_000"
_ID_KEYS = (
    "asin", "parent_asin", "business_id", "item_id", "itemId", "movieId", "movie_id", "item", "id",
)  # fmt: skip
_INPUTS = ("sequences", "titles", "timestamps", "categories", "attributes")


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add this source's input options to ``parser``."""
    parser.add_argument("--sequences", required=True, metavar="FILE", help="user item item ...")
    parser.add_argument(
        "--titles", required=True, metavar="FILE", help="item<TAB>title, or MovieLens movies.dat"
    )
    parser.add_argument("--timestamps", metavar="FILE", help="user seconds seconds ...")
    parser.add_argument("--categories", metavar="FILE", help="JSON lines")
    parser.add_argument("--attributes", metavar="FILE", help="item<TAB>id id ...")


def convert(args: argparse.Namespace, rejects: Rejects, staging: Staging) -> Corpus:
    """Read the files named in ``args``; malformed lines go to ``rejects``. Ready-made sequences
    are small: nothing is staged.

    Raises ConversionError where a file cannot be read at all.
    """
    # All are opened first: a wrong file name should not cost a minute of reading.
    paths = {key: getattr(args, key) for key in _INPUTS}
    files = {
        key: InputFile(path, rejects, utf8=key == "categories")
        for key, path in paths.items() if path is not None
    }  # fmt: skip
    corpus = read_interactions(files["sequences"], files.get("timestamps"))
    titles, categories = read_titles(files["titles"])
    if "categories" in files:
        categories = read_categories(files["categories"])
    attributes = read_attributes(files["attributes"]) if "attributes" in files else {}
    corpus.columns = {TITLE: titles, CATEGORIES: categories, ATTRIBUTES: attributes}
    corpus.inputs = {key: file.describe() for key, file in files.items()}
    return corpus


def read_interactions(sequences: InputFile, timestamps: InputFile | None) -> Corpus:
    """The interactions in source order. A malformed line of times costs that user the times,
    a malformed sequence costs the user."""
    users: dict[str, int] = {}
    items: defaultdict[str, int] = defaultdict(lambda: len(items))
    user_codes, item_codes, times = array("i"), array("i"), array("q")
    time_lines = timestamps.lines(misfits=True) if timestamps else iter(())
    for (number, line), (time_number, time_line) in zip_longest(
        sequences.lines(misfits=True), time_lines, fillvalue=(0, "")
    ):
        if not number:
            assert timestamps is not None  # only its lines can outlast the sequences
            if time_line:
                timestamps.reject(time_number, "no sequence belongs to this line")
            continue
        if not line:  # not UTF-8, and a reject already
            continue
        if _BREAK.search(line):
            sequences.reject(number, "an id with a line break")
            continue
        user, *sequence = _FIELD.findall(line)
        if not sequence or user in users:
            reason = f"second line of user {user}" if sequence else f"user {user} has no items"
            sequences.reject(number, reason)
            continue
        user_codes.extend([users.setdefault(user, len(users))] * len(sequence))
        item_codes.extend([items[item] for item in sequence])
        seconds = None
        if timestamps and (time_line or not time_number):
            try:
                seconds = _parse_times(time_line, user, len(sequence))
            except ValueError as error:
                timestamps.reject(time_number or number, str(error))
        times.extend(seconds or [UNKNOWN_TIME] * len(sequence))
    return Corpus(
        users=pa.array(users, pa.string()),
        items=pa.array(items, pa.string()),
        user=np.array(user_codes, dtype=np.int32),
        item=np.array(item_codes, dtype=np.int32),
        time=np.array(times, dtype=np.int64),
    )


def _parse_times(line: str, user: str, length: int) -> list[int] | None:
    """The times of one user, None where unknown; ValueError says what is wrong."""
    owner, *fields = _FIELD.findall(line) or [""]
    if not owner:
        raise ValueError(f"no times for user {user}")
    if owner != user:
        raise ValueError(f"times of user {owner}, but the sequence of {user}")
    if not fields:
        return None
    if len(fields) != length:
        raise ValueError(f"user {user} has {length} items but {len(fields)} times")
    if wrong := next((text for text in fields if not _SECONDS.fullmatch(text)), None):
        raise ValueError(f"time {wrong!r} of user {user} is not a whole number of seconds")
    seconds = [int(text) for text in fields]
    if wrong := next((time for time in seconds if not 0 <= time < LATEST), None):
        raise ValueError(f"time {wrong} of user {user} is before 1970 or after 2100")
    return seconds


def read_titles(file: InputFile) -> tuple[dict[str, str], dict[str, str]]:
    """``{item: title}`` and, from movies.dat, ``{item: genres}`` (from a TSV table empty)."""
    titles: dict[str, str] = {}
    genres: dict[str, str] = {}
    is_movies: bool | None = None
    for number, line in file.lines():
        if is_movies is None:
            is_movies = "\t" not in line and line.count("::") >= 2
        if is_movies:
            item, title, separator, names = split_dat(line)
            title = natural_order(clean_title(title))
        else:
            item, separator, title = line.partition("\t")
            title, names = clean_title(title), ""
        item = item.strip(BLANKS)
        if not separator:
            file.reject(number, "no '::' after the title" if is_movies else "no tab")
        elif not item:
            file.reject(number, "no item id")
        elif item in titles:
            file.reject(number, f"second line of item {item}")
        else:
            titles[item] = title
            if names:
                genres[item] = token_names(names.split("|"))
    return titles, genres


def read_categories(file: InputFile) -> dict[str, str]:
    """``{item: category names with a blank between}``, each once, by first mention."""
    categories: dict[str, str] = {}
    for number, line in file.lines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            file.reject(number, "no valid JSON")
            continue
        try:
            item = _id_of(record)
            names = token_names(flatten(record["categories"]))
        except (KeyError, TypeError, RecursionError):
            file.reject(number, 'not of the form {"id": ..., "categories": [...]}')
            continue
        if item in categories:
            file.reject(number, f"second line of item {item}")
        else:
            categories[item] = names
    return categories


def _id_of(record: object) -> str:
    """The id of a line of categories: of a known key, or else of the only other one. KeyError or
    TypeError where there is none."""
    if not isinstance(record, dict):
        raise TypeError
    others = [key for key in record if key != "categories"]
    known = [key for key in _ID_KEYS if key in record] or others
    if not known or (known == others and len(others) > 1 and others[0] not in _ID_KEYS):
        raise KeyError
    item = record[known[0]]
    if isinstance(item, bool) or not isinstance(item, (str, int)):
        raise TypeError
    return str(item)


def flatten(names: object) -> Iterator[str]:
    """The strings of a list or a list of lists; TypeError for anything else."""
    if not isinstance(names, list):
        raise TypeError
    for name in names:
        if isinstance(name, str):
            yield name
        else:
            yield from flatten(name)


def read_attributes(file: InputFile) -> dict[str, str]:
    """``{item: attribute ids with a blank between}``."""
    attributes: dict[str, str] = {}
    for number, line in file.lines():
        item, separator, ids = line.partition("\t")
        item = item.strip(BLANKS)
        if not separator or not item:
            file.reject(number, "no tab" if not separator else "no item id")
        elif item in attributes:
            file.reject(number, f"second line of item {item}")
        elif _BREAK.search(line):
            file.reject(number, "an attribute with a line break")
        else:
            attributes[item] = " ".join(_FIELD.findall(ids))
    return attributes
