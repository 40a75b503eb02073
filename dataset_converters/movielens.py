"""MovieLens as GroupLens releases it: 100k, 1M, 10M, 20M, 25M, 32M, latest; a folder, zip or tar.

Forms, told apart by the names of the files, or for single files by their first line:

- 100k: ``u.data`` (user, item, rating, Unix seconds; tabs) and ``u.item`` (``id|title|release
  date|video date|url|19 flags``, Latin-1), the flags named by ``u.genre`` where that is there;
- 1M, 10M: ``ratings.dat`` (``UserID::MovieID::Rating::Timestamp``) and ``movies.dat``
  (``MovieID::Title::Genre|Genre``), Latin-1 and UTF-8;
- 20M and later: ``ratings.csv`` (``userId,movieId,rating,timestamp``) and ``movies.csv``
  (``movieId,title,genres``; titles with a comma in quotes), UTF-8.

Titles are put into natural order ("Matrix, The (1999)" becomes "The Matrix (1999)") and keep
the year, which is a column too. Genres are the categories and the attributes.
"""

from __future__ import annotations

import argparse
import csv
import re
from typing import NamedTuple, Sequence

from . import interactions
from .catalogue import Catalogue
from .corpus import ATTRIBUTES, CATEGORIES, TITLE, YEAR, Corpus
from .parsing import Rows, match
from .reading import Block, ConversionError, InputFile, Rejects, find_files, single_files
from .staging import Staging
from .titles import clean_title, natural_order, token_names

EXAMPLES = """examples:
  python -m dataset_converters movielens --input ml-25m.zip --output dataset --name ml-25m
  python -m dataset_converters movielens --ratings ratings.csv.gz --movies movies.csv \\
      --min-rating 4 --k-core 5 --output dataset --name ml-liked
"""


class _Form(NamedTuple):
    ratings: str
    movies: str
    separator: str
    header: str = ""


_FORMS = (
    _Form("ratings.csv", "movies.csv", ",", "userid,movieid,rating,timestamp"),
    _Form("ratings.dat", "movies.dat", "::"),
    _Form("u.data", "u.item", "\t"),
)
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
_YEAR = re.compile(r"\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)\s*$")


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add this source's input options to ``parser``."""
    parser.add_argument("--input", metavar="PATH", help="folder, zip or tar of a release")
    parser.add_argument("--ratings", metavar="FILE", help="instead: the file of ratings, and ...")
    parser.add_argument("--movies", metavar="FILE", help="... the file of films")


def convert(args: argparse.Namespace, rejects: Rejects, staging: Staging) -> Corpus:
    """Read the release named in ``args``; malformed lines go to ``rejects``.

    Raises ConversionError where files are missing, damaged or of no known form.
    """
    files = _open(args, rejects)
    inputs = {role: file.describe() for role, file in files.items()}
    form, header = _form_of(files["ratings"])
    staging.begin(source="movielens", inputs=inputs)

    def parse(_: InputFile, block: Block) -> Rows:
        return parse_ratings(block.without(header), form)

    corpus = interactions.collect([files["ratings"]], parse, staging, rejects)
    genres = _read_genres(files["genres"]) if "genres" in files else _GENRES
    films = read_movies(files["movies"], form, genres)
    corpus.columns, corpus.inputs = dict(films.columns), inputs
    corpus.notes["duplicate_metadata"] = films.duplicates
    return corpus


def _open(args: argparse.Namespace, rejects: Rejects) -> dict[str, InputFile]:
    if paths := single_files(args, "input", "ratings", "movies"):
        return {role: InputFile(path, rejects) for role, path in paths.items()}
    names = [name for form in _FORMS for name in form[:2]]
    found = find_files(args.input, [*names, "u.genre"])
    for form in _FORMS:
        if form.ratings in found and form.movies in found:
            roles = {"ratings": found[form.ratings], "movies": found[form.movies]}
            if form.ratings == "u.data" and "u.genre" in found:
                roles["genres"] = found["u.genre"]
            return {role: InputFile(path, rejects, name) for role, (path, name) in roles.items()}
    pairs = ", ".join(f"{form.ratings} with {form.movies}" for form in _FORMS)
    raise ConversionError(f"{args.input}: no release of MovieLens; none of {pairs}")


def _form_of(ratings: InputFile) -> tuple[_Form, int]:
    """The form, and the number of the line that holds its header (0: none)."""
    number, line = ratings.first_line()
    for form in _FORMS:
        if form.separator in line:
            return form, number if _is_header(line, form.header) else 0
    raise ConversionError(f"{ratings.name}: {line[:60]!r} is no line of MovieLens ratings")


def parse_ratings(block: Block, form: _Form) -> Rows:
    """The rows of a block of ratings: user, item, rating, time in seconds."""
    fields = (r"(?P<user>\d{1,18})", r"(?P<item>\d{1,18})", r"(?P<rating>\d{1,3}(?:\.\d{1,9})?)",
              r"(?P<time>-?\d{1,18})")  # fmt: skip
    pattern = form.separator.join(fields)
    return match(block, pattern, f"not user, item, rating and time with {form.separator!r} between")


def _is_header(line: str, header: str) -> bool:
    return bool(header) and line.strip().lower() == header


def _read_genres(file: InputFile) -> list[str]:
    """The names of the flags in u.item, from lines ``Action|1``."""
    return [line.partition("|")[0] for _, line in file.lines()]


def read_movies(file: InputFile, form: _Form, genres: Sequence[str]) -> Catalogue:
    """Title, genres and year of every film; ``genres`` names the flags of u.item."""
    films = Catalogue(CATEGORIES, ATTRIBUTES, YEAR)
    for place, (number, line) in enumerate(file.lines()):
        if place == 0 and _is_header(line, "movieid,title,genres"):
            continue
        try:
            item, title, names, date = _split_movie(line, form, genres)
        except (ValueError, csv.Error):
            file.reject(number, f"no line of {form.movies}")
            continue
        title = natural_order(clean_title(title))
        year = _YEAR.search(title)
        kinds = token_names(name for name in names if name != "(no genres listed)")
        films.add(item, {
            TITLE: title, CATEGORIES: kinds, ATTRIBUTES: kinds,
            YEAR: year[1] if year else date[-4:],
        })  # fmt: skip
    return films


def _split_movie(line: str, form: _Form, genres: Sequence[str]) -> tuple[str, str, list[str], str]:
    """``(id, raw title, genres, release date or "")``; ValueError or csv.Error if malformed."""
    if form.movies == "u.item":
        item, title, date, _, _, *flags = line.split("|")
        if len(flags) != len(genres) or not set(flags) <= {"0", "1"}:
            raise ValueError
        names, date = [name for name, flag in zip(genres, flags) if flag == "1"], date.strip()
    elif form.movies == "movies.dat":
        item, title, separator, kinds = split_dat(line)
        if not separator:
            raise ValueError
        names, date = kinds.split("|"), ""
    else:
        ((item, title, kinds),) = csv.reader([line], strict=True)
        names, date = kinds.split("|"), ""
    if not re.fullmatch(r"\d{1,18}", item) or not re.fullmatch(r"|.*\d{4}", date):
        raise ValueError
    return item, title, names, date


def split_dat(line: str) -> tuple[str, str, str, str]:
    """``(id, title, separator after it, genres)`` of a line of movies.dat, whose title may hold
    ``::`` itself; the separator is "" where the line has less than two."""
    item, _, rest = line.partition("::")
    return item, *rest.rpartition("::")
