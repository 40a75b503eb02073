"""Yelp open dataset: reviews and businesses, as JSON files or inside the tar.

One JSON object a line: reviews ``user_id, business_id, stars, date`` with the date
"2019-03-01 12:34:56" (older dumps: "2019-03-01"), taken as UTC; businesses ``business_id, name,
categories`` with the categories as "Bars, Tacos" (older dumps: a list). The name is the title,
the categories are the attributes too.

S3-Rec's subset, which P5 and its followers use, is the year 2019 in its 5-core.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from . import interactions
from .catalogue import Catalogue, read_records
from .corpus import ATTRIBUTES, CATEGORIES, TITLE, Corpus
from .parsing import Field, Rows, json_lines, numpy_mask
from .reading import Block, ConversionError, InputFile, Rejects, find_files, single_files
from .staging import Staging
from .titles import clean_title, token_names

EXAMPLES = """example (the subset of S3-Rec):
  python -m dataset_converters yelp --tar yelp_dataset.tar --since 2019-01-01 \\
      --until 2019-12-31 --k-core 5 --output dataset --name yelp
"""

_MEMBERS = {
    "reviews": "yelp_academic_dataset_review.json",
    "businesses": "yelp_academic_dataset_business.json",
}
_FIELDS = {
    "user": Field("user_id", pa.string()), "item": Field("business_id", pa.string()),
    "rating": Field("stars", pa.float64()), "date": Field("date", pa.string()),
}  # fmt: skip
_DATE = r"\A\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d)?\z"


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add this source's input options to ``parser``."""
    parser.add_argument("--reviews", metavar="FILE", help=_MEMBERS["reviews"])
    parser.add_argument("--businesses", metavar="FILE", help=_MEMBERS["businesses"])
    parser.add_argument(
        "--tar", metavar="FILE", help="instead: the folder, tar or zip that holds both"
    )


def convert(args: argparse.Namespace, rejects: Rejects, staging: Staging) -> Corpus:
    """Read the files named in ``args``; malformed lines go to ``rejects``.

    Raises ConversionError where a file is missing or cannot be read.
    """
    files = _open(args, rejects)
    inputs = {role: file.describe() for role, file in files.items()}
    staging.begin(source="yelp", inputs=inputs["reviews"])
    corpus = interactions.collect([files["reviews"]], parse_reviews, staging, rejects)
    businesses = read_businesses(files["businesses"], corpus.items)
    corpus.columns, corpus.inputs = dict(businesses.columns), inputs
    corpus.lines_of_others = businesses.others
    corpus.notes = {"duplicate_metadata": businesses.duplicates}
    return corpus


def _open(args: argparse.Namespace, rejects: Rejects) -> dict[str, InputFile]:
    if paths := single_files(args, "tar", "reviews", "businesses"):
        return {role: InputFile(path, rejects, utf8=True) for role, path in paths.items()}
    found = find_files(args.tar, _MEMBERS.values())
    for name in _MEMBERS.values():
        if name not in found:
            raise ConversionError(f"{args.tar}: holds no {name}")
    places = {role: found[name] for role, name in _MEMBERS.items()}
    return {role: InputFile(place[0], rejects, place[1], utf8=True) for role, place in places.items()}


def parse_reviews(_: InputFile, block: Block) -> Rows:
    """The rows of a block: user, item, rating, time in seconds."""
    rows = json_lines(block, _FIELDS)
    rows.reject_null("date", "no date")
    fits = numpy_mask(pc.match_substring_regex(rows.columns["date"], _DATE))
    rows.reject(~fits, "date is not of the form 2019-03-01 12:34:56")
    rows.columns["time"] = _seconds(rows.columns["date"])
    rows.reject_null("time", "date is not in the calendar")
    return rows


def _seconds(dates: pa.Array) -> pa.Array:
    """int64 ``[n]``: Unix seconds of dates that have the right form, null outside the calendar."""
    try:
        return dates.cast(pa.timestamp("s")).cast(pa.int64())
    except pa.ArrowInvalid:  # some 31st of February; Arrow does not say which
        return pa.array([_one(text) for text in dates.to_pylist()], pa.int64())


def _one(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())
    except ValueError:
        return None


def read_businesses(file: InputFile, wanted: pa.Array) -> Catalogue:
    """Name and categories of the businesses ``wanted``."""
    businesses = Catalogue(CATEGORIES, ATTRIBUTES)
    for item, record in read_records(file, "business_id", wanted, businesses):
        name, kinds = record.get("name"), token_names(_names(record.get("categories")))
        title = clean_title(name) if isinstance(name, str) else ""
        businesses.add(item, {TITLE: title, CATEGORIES: kinds, ATTRIBUTES: kinds})
    return businesses


def _names(categories: Any) -> list[str]:
    if isinstance(categories, str):
        return categories.split(",")
    return [n for n in categories if isinstance(n, str)] if isinstance(categories, list) else []
