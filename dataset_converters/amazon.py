"""Amazon reviews of 2014, 2018 and 2023 (J. McAuley's group): reviews or ratings with metadata.

Forms, told apart by the first lines of a file:

- reviews, one JSON object a line: 2014 and 2018 ``reviewerID, asin, overall, unixReviewTime``
  (seconds); 2023 ``user_id, parent_asin, rating, timestamp`` (milliseconds);
- ratings only, CSV without a header: ``user,item,rating,seconds`` (2014) or
  ``item,user,rating,seconds`` (2018), told apart by which column holds ASINs; with the header
  ``user_id,parent_asin,rating,timestamp[,history]`` (2023, milliseconds);
- metadata, one object a line: 2014 Python literals (never evaluated as code), 2018 and 2023
  JSON. ``asin`` or ``parent_asin``, ``title``, ``brand`` or ``store``, ``price``, and
  ``categories`` (2014: lists of paths; 2023: one path) or ``category`` (2018).

An item is an asin, in 2023 a parent_asin. Attributes are its categories below the top level and
its brand. A 2018 title that is a left-over of the page's script counts as missing.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import Any, Iterator, Mapping, NamedTuple

import pyarrow as pa

from . import interactions
from .catalogue import Catalogue, read_records
from .corpus import ATTRIBUTES, BRAND, CATEGORIES, PRICE, TITLE, Corpus
from .parsing import Field, Rows, json_lines, match, parse_record
from .reading import Block, ConversionError, InputFile, Rejects
from .staging import Staging
from .titles import clean_title, token_names

EXAMPLES = """examples:
  python -m dataset_converters amazon --reviews reviews_Beauty_5.json.gz \\
      --meta meta_Beauty.json.gz --output dataset --name amazon-beauty
  python -m dataset_converters amazon --reviews Toys_and_Games.csv.gz \\
      --meta meta_Toys_and_Games.jsonl.gz --k-core 5 --output dataset --name amazon-toys-2023
"""


class _Form(NamedTuple):
    """How a file of interactions is written: JSON keys or the order of CSV columns."""

    keys: Mapping[str, str] | None
    columns: tuple[str, ...] = ()
    item_key: str = "asin"
    per_second: int = 1
    header: int = 0  # number of the line that holds the header


_REVIEWS = _Form(
    {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}
)
_REVIEWS_2023 = _Form(
    {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
    item_key="parent_asin", per_second=1000,
)  # fmt: skip
_COLUMNS = ("user", "item", "rating", "timestamp")
_HEADER = "user_id,parent_asin,rating,timestamp"
_TYPES = {"user": pa.string(), "item": pa.string(), "rating": pa.float64(), "time": pa.int64()}
_CSV = {
    "user": r"(?P<user>[^,\s\"]+)", "item": r"(?P<item>[^,\s\"]+)",
    "rating": r"(?P<rating>\d{1,3}(?:\.\d{1,9})?)", "timestamp": r"(?P<time>\d{1,18})",
}  # fmt: skip
_ASIN = re.compile(r"[0-9A-Z]{10}")
_LOOKED_AT = 1000  # lines from which the order of CSV columns is seen
_EARLIEST = 788918400  # 1995-01-01: Amazon opened in that year
_LEFTOVER = re.compile(r"(?i)var aPageStart|getTime\(\)|<script|<style|<!--|function\s*\(")
_PRICE = re.compile(r"\$?\s*(\d{1,3}(?:,\d{3})+|\d{1,9})(\.\d{1,4})?")


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add this source's input options to ``parser``."""
    parser.add_argument(
        "--reviews", nargs="+", required=True, metavar="FILE", help="reviews or ratings; in order"
    )
    parser.add_argument("--meta", nargs="+", required=True, metavar="FILE", help="metadata")
    parser.add_argument(
        "--columns", type=_columns, metavar="ORDER",
        help="of ratings without a header, where it cannot be seen: user,item,rating,timestamp",
    )  # fmt: skip


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if sorted(names) != sorted(_COLUMNS):
        raise argparse.ArgumentTypeError(f"{text} is no order of {','.join(_COLUMNS)}")
    return names


def convert(args: argparse.Namespace, rejects: Rejects, staging: Staging) -> Corpus:
    """Read the files named in ``args``; malformed lines go to ``rejects``.

    Raises ConversionError where a file cannot be read or is of no known form, or where the
    reviews are of different generations.
    """
    reviews = [InputFile(path, rejects, utf8=True) for path in args.reviews]
    meta = [InputFile(path, rejects, utf8=True) for path in args.meta]
    forms = {file: _form_of(file, args.columns) for file in reviews}
    first = forms[reviews[0]]
    if args.columns and all(form.keys or form.header for form in forms.values()):
        raise ConversionError("--columns is for ratings without a header, and there are none")
    for file, form in forms.items():
        if form.item_key != first.item_key:
            raise ConversionError(f"{file.name}: of another generation than {reviews[0].name}")
    inputs = {role: [file.describe() for file in files]
              for role, files in (("reviews", reviews), ("meta", meta))}  # fmt: skip
    staging.begin(source="amazon", inputs=inputs["reviews"], forms=[str(f) for f in forms.values()])

    def parse(file: InputFile, block: Block) -> Rows:
        return parse_reviews(block, forms[file])

    corpus = interactions.collect(reviews, parse, staging, rejects, first.per_second)
    products, leftovers = read_products(meta, first.item_key, corpus.items)
    corpus.columns, corpus.inputs = dict(products.columns), inputs
    corpus.lines_of_others = products.others
    corpus.notes = {"duplicate_metadata": products.duplicates, "titles_of_page_script": leftovers}
    return corpus


def _form_of(file: InputFile, columns: tuple[str, ...] | None) -> _Form:
    number, line = file.first_line()
    if line.startswith("{"):
        try:
            record = parse_record(line)
        except ValueError:
            record = {}
        for form in (_REVIEWS, _REVIEWS_2023):
            if form.keys and {form.keys["user"], form.keys["item"]} <= set(record):
                return form
        raise ConversionError(f"{file.name}: the first line is no Amazon review")
    if line == _HEADER or line.startswith(_HEADER + ","):
        names = (*_COLUMNS, *line.split(",")[4:])
        return _Form(None, names, "parent_asin", per_second=1000, header=number)
    if line.count(",") != 3:
        raise ConversionError(f"{file.name}: neither Amazon reviews nor ratings as CSV")
    return _Form(None, columns or _order_of_columns(file))


def _order_of_columns(file: InputFile) -> tuple[str, ...]:
    """Where the items are: the column that holds nothing but ASINs. ConversionError if both or
    neither of the first two do."""
    rows = [line.split(",") for _, line in file.head(_LOOKED_AT)]
    asins = [all(_ASIN.fullmatch(row[place]) for row in rows if len(row) == 4) for place in (0, 1)]
    if asins[0] == asins[1]:
        raise ConversionError(
            f"{file.name}: cannot see whether users or items come first; name the columns "
            "by --columns user,item,rating,timestamp or --columns item,user,rating,timestamp"
        )
    first = ("item", "user") if asins[0] else ("user", "item")
    return (*first, "rating", "timestamp")


def parse_reviews(block: Block, form: _Form) -> Rows:
    """The rows of a block: user, item, rating, time in ``1 / form.per_second`` seconds."""
    if form.keys:
        fields = {name: Field(key, _TYPES[name]) for name, key in form.keys.items()}
        rows = json_lines(block, fields)
    else:
        # Fields beyond the known ones (2023's history) are not looked at.
        pattern = ",".join(_CSV.get(name, "[^,]*") for name in form.columns)
        rows = match(block.without(form.header), pattern, f"not {','.join(form.columns)}")
        rows.columns["time"] = rows.columns["time"].cast(pa.int64())
    time = rows.columns["time"].fill_null(_EARLIEST * form.per_second).to_numpy()
    rows.reject(time < _EARLIEST * form.per_second, "time before 1995")
    return rows


def read_products(files: list[InputFile], key: str, wanted: pa.Array) -> tuple[Catalogue, int]:
    """The metadata of the items ``wanted``, and how many titles were left-overs of a script."""
    products, leftovers = Catalogue(CATEGORIES, ATTRIBUTES, BRAND, PRICE), 0
    for file in files:
        for item, record in read_records(file, key, wanted, products):
            title = _text(record.get("title"))
            if _LEFTOVER.search(title):
                title, leftovers = "", leftovers + 1
            brand = clean_title(_text(record.get("brand") or record.get("store")))
            paths = list(_paths(record.get("categories") or record.get("category")))
            below = [name for path in paths for name in path[1:]]
            products.add(item, {
                TITLE: clean_title(title),
                CATEGORIES: token_names(name for path in paths for name in path),
                ATTRIBUTES: token_names([*below, brand]),
                BRAND: brand,
                PRICE: price(record.get("price")),
            })  # fmt: skip
    return products, leftovers


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _paths(categories: Any) -> Iterator[list[str]]:
    """Category paths from the top: of a list of paths, or of one path."""
    if isinstance(categories, list):
        nested = [path for path in categories if isinstance(path, list)]
        for path in nested or [categories]:
            yield [name for name in path if isinstance(name, str)]


def price(raw: Any) -> str:
    """Dollars as text, "" where unknown: 12.99, "$1,012.99"; a range or a phrase is unknown."""
    if isinstance(raw, str) and (found := _PRICE.fullmatch(raw.strip())):
        raw = float(found[1].replace(",", "") + (found[2] or ""))
    if isinstance(raw, (int, float)) and not isinstance(raw, bool) and 0 <= raw < math.inf:
        return f"{raw:.10g}"
    return ""
