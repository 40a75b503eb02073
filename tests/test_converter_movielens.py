"""MovieLens in the forms of its releases: 100k, 1M and 10M, 20M and later."""

from __future__ import annotations

import gzip
import io
import tempfile
import zipfile
from pathlib import Path

import pytest
from converter_helpers import (
    SHARED, bytes_of, column, convert, fails, header, put, rejects_of, report, sequences_of, table, titles_of,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_converters import reading

# Lines as in the releases. ml-100k's film 267 has neither a year nor a date.
U_DATA = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t267\t4\t881250948\n196\t302\t1\t881250948\n"
U_ITEM = (
    "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "302|Cité des enfants perdus, La (1995)|01-Jan-1995||http://x|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|1|0|0|0\n"
    "303|Ulee's Gold|01-Jan-1997||http://x|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
)
U_GENRE = "".join(f"{name}|{place}\n" for place, name in enumerate(
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western".split())) + "\n"  # fmt: skip
RATINGS_DAT = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::3.5::978300000\n"
MOVIES_DAT = (
    "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
    "1193::Misérables, Les (1995)::Drama\n"
)
RATINGS_CSV = "userId,movieId,rating,timestamp\r\n" + (
    "1,306,3.5,1147868817\r\n1,296,5.0,1147880044\r\n2,306,0.5,1141415820\r\n"
)
MOVIES_CSV = (
    "movieId,title,genres\r\n"
    '296,"Cité ""Rouge"", La (1995)",Comedy|Crime|Drama\r\n'
    "306,Three Colors: Red (Trois couleurs: Rouge) (1994),(no genres listed)\r\n"
    '307,"Never, Seen (2001-2004)",Drama\r\n'
)


def _release(form: str) -> dict[str, bytes]:
    return {
        "100k": {"u.data": U_DATA.encode(), "u.item": U_ITEM.encode("latin-1"), "u.genre": U_GENRE.encode()},
        "1m": {"ratings.dat": RATINGS_DAT.encode(), "movies.dat": MOVIES_DAT.encode("latin-1")},
        "10m": {"ratings.dat": RATINGS_DAT.encode(), "movies.dat": MOVIES_DAT.encode()},
        "25m": {"ratings.csv": RATINGS_CSV.encode(), "movies.csv": MOVIES_CSV.encode(), "README.txt": b"\xff"},
    }[form]


EXPECTED = {
    "100k": ({"196": ["267", "302", "242"], "186": ["302"]},
             [["242", "Kolya (1996)", "Comedy", "Comedy", "1996"], ["267", "unknown", "unknown", "unknown", ""],
              ["302", "La Cité des enfants perdus (1995)", "Adventure Sci-Fi", "Adventure Sci-Fi", "1995"]]),
    "1m": ({"1": ["1193", "661"], "2": ["1193"]},
           [["1193", "Les Misérables (1995)", "Drama", "Drama", "1995"],
            ["661", "James and the Giant Peach (1996)", *["Animation Children's Musical"] * 2, "1996"]]),
    "25m": ({"1": ["306", "296"], "2": ["306"]},
            [["296", 'La Cité "Rouge" (1995)', *["Comedy Crime Drama"] * 2, "1995"],
             ["306", "Three Colors: Red (Trois couleurs: Rouge) (1994)", "", "", "1994"]]),
}  # fmt: skip
EXPECTED["10m"] = EXPECTED["1m"]


def _zip(files: dict[str, bytes], folder: str = "", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("__MACOSX/._ratings.csv", "junk")
        for name, content in files.items():
            archive.writestr(f"{folder}{name}", content)
            archive.writestr(f"{folder}a/older/{name}", "junk: the shallowest counts")
    return buffer.getvalue()


@pytest.mark.parametrize("form", EXPECTED)
@pytest.mark.parametrize("kind", ["folder", "gzip", "zip", "deep zip"])
def test_releases(tmp_path: Path, form: str, kind: str) -> None:
    source, files = tmp_path / "ml", _release(form)
    if "zip" in kind and kind != "gzip":
        put(source, _zip(files, "" if kind == "zip" else "a/b/"))
    else:
        for name, content in files.items():
            put(source / f"{name}{'.gz' * (kind == 'gzip')}", gzip.compress(content) if kind == "gzip" else content)
    assert convert(tmp_path, "movielens", "--input", source) == 0
    sequences, items = EXPECTED[form]
    assert {u: [row[0] for row in rows] for u, rows in sequences_of(tmp_path).items()} == sequences
    assert table(tmp_path, "item") == items
    assert rejects_of(tmp_path) == []


def test_columns_ratings_and_users_by_first_appearance(tmp_path: Path) -> None:
    files = [put(tmp_path / name, content) for name, content in _release("25m").items()]
    assert convert(tmp_path, "movielens", "--ratings", files[0], "--movies", files[1]) == 0
    assert header(tmp_path, "inter") == [
        "user_id:token", "item_id:token", "position:float", "timestamp:float", "rating:float"]  # fmt: skip
    assert header(tmp_path, "item") == [
        "item_id:token", "title:token", "categories:token_seq", "attributes:token_seq", "year:token"]  # fmt: skip
    assert table(tmp_path, "inter") == [
        ["1", "306", "1", "1147868817", "3.5"], ["1", "296", "2", "1147880044", "5"],
        ["2", "306", "1", "1141415820", "0.5"]]  # fmt: skip
    assert report(tmp_path)["counts"]["titles_without_interactions"] == 1


def test_date_gives_the_year_where_the_title_has_none(tmp_path: Path) -> None:
    put(tmp_path / "ml/u.data", U_DATA + "1\t303\t5\t881250949\n")
    put(tmp_path / "ml/u.item", U_ITEM.encode("latin-1"))  # without u.genre: the names are known
    assert convert(tmp_path, "movielens", "--input", tmp_path / "ml") == 0
    assert column(tmp_path, "item", "year:token")["303"] == "1997"
    assert column(tmp_path, "item", "categories:token_seq")["303"] == "Drama"


@pytest.mark.parametrize(
    ("form", "name", "line"),
    [
        *[("25m", "ratings.csv", line) for line in (
            "x,306,3.5,1147868817", "1,306,3.5", "1,306,3.5,1147868817,9", "1,306,,1147868817", "1,306,nan,1",
            "1,306,3.5,99999999999999999999", "1;306;3.5;1", "1,306,3.5,1_0", "1,306,3.5,11e3", "１,306,3.5,11",
            "userId,movieId,rating,timestamp", '1,"306,3.5,1', "1,306,3.5,1.5", "-1,306,3.5,1")],
        *[("25m", "movies.csv", line) for line in (
            "9,No genres", "9,a,b,c", '9,"open (1999),Drama', "x,Title,Drama", ",Title,Drama", '9,"a"b,Drama')],
        ("1m", "ratings.dat", "1:1193:5:978300760"), ("1m", "movies.dat", "5::Only a title"),
        ("100k", "u.data", "196 242 3 881250949"), ("100k", "u.item", "5|Copycat (1995)|01-Jan-1995||http://x|0|0"),
        ("100k", "u.item", U_ITEM.split("\n")[0].replace("|1|", "|2|")),
    ],
)  # fmt: skip
def test_malformed_lines_keep_their_number(tmp_path: Path, form: str, name: str, line: str) -> None:
    for file, content in _release(form).items():
        if file == name:
            end = b"\r\n" if b"\r" in content else b"\n"
            head, _, tail = content.partition(end)
            content = head + end + end + line.encode() + end + tail
        put(tmp_path / "ml" / file, content)
    assert convert(tmp_path, "movielens", "--input", tmp_path / "ml", "--max-rejects", "0.5") == 0
    assert rejects_of(tmp_path) == [(name, 3)]
    sequences, items = EXPECTED[form]
    assert {u: [row[0] for row in rows] for u, rows in sequences_of(tmp_path).items()} == sequences
    assert table(tmp_path, "item") == items


numbers = st.integers(1, 10**9).map(str)
rows = st.tuples(numbers, st.integers(1, 30).map(str), st.sampled_from(["0.5", "3", "4.5", "5.0"]),
                 st.integers(0, 2_000_000_000))  # fmt: skip
junk = st.sampled_from(["garbage", "1,2,3", "1::2::3", "a,b,c,d", "1\t2\t3\t4\t5", "\x00", "é,1,1,1"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(rows, junk, st.just("")), min_size=1, max_size=40), rows,
       st.sampled_from([",", "::", "\t"]), st.booleans(), st.integers(10, 200))  # fmt: skip
def test_every_valid_line_is_an_interaction_once_and_every_other_is_counted(lines, first, separator, crlf, block):
    """In time order per user, equal times in the order of the file; whatever the blocks are."""
    lines = [first, *lines]
    text = [line if isinstance(line, str) else separator.join(map(str, line)) for line in lines]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", block)
        folder = Path(name)
        ratings = put(folder / "r", ("\r\n" if crlf else "\n").join(text))
        movies = put(folder / "m", {",": "1,A,B\n", "::": "1::A::B\n", "\t": U_ITEM.split("\n")[0] + "\n"}[separator])
        assert convert(folder, "movielens", "--ratings", ratings, "--movies", movies, "--max-rejects", "1") == 0
        bad = [number for number, line in enumerate(lines, 1) if isinstance(line, str) and line]
        assert rejects_of(folder) == [("r", number) for number in bad]
        expected: dict[str, list] = {}
        for line in lines:
            if not isinstance(line, str):
                expected.setdefault(line[0], []).append(line)
        assert [row[:2] + row[3:4] for row in table(folder, "inter")] == [
            [user, item, str(time)] for mine in expected.values()
            for user, item, _, time in sorted(mine, key=lambda row: row[3])]  # fmt: skip
        assert [float(row[4]) for row in table(folder, "inter")] == [
            float(rating) for mine in expected.values() for _, _, rating, _ in sorted(mine, key=lambda row: row[3])]


# --- files that cannot be read


def _members() -> dict[str, bytes]:
    return {"ratings.csv": RATINGS_CSV.encode() * 500, "movies.csv": MOVIES_CSV.encode()}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda raw: raw[: len(raw) // 2], "neither a folder nor a zip"),
        (lambda raw: raw[:200] + bytes(b ^ 0x55 for b in raw[200:260]) + raw[260:], "damaged archive"),
        (lambda raw: b"", "neither a folder nor a zip"),
        (lambda raw: b"not an archive", "neither a folder nor a zip"),
    ],
)
def test_damaged_zip(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage, text: str) -> None:
    path = put(tmp_path / "ml.zip", damage(_zip(_members(), "ml/", zipfile.ZIP_STORED)))
    fails(capsys, convert(tmp_path, "movielens", "--input", path), text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"ratings.csv": b""}, "no release of MovieLens"),
        ({"ratings.csv": b"", "movies.csv": b"1,A,B\n"}, "ratings.csv: empty file"),
        ({"ratings.csv": b"userId,movieId,rating,timestamp\n", "movies.csv": b"1,A,B\n"}, "no interactions"),
        ({"ratings.csv": b"hello\n", "movies.csv": b"1,A,B\n"}, "no line of MovieLens ratings"),
        ({"ratings.csv.gz": gzip.compress(b"1,2,3,4\n" * 999)[:-9], "movies.csv": b"1,A,B\n"}, "damaged gzip"),
        ({"ratings.csv": b"1,2,3\n" * 9, "movies.csv": b"1,A,B\n"}, "9 of 9 input lines are malformed"),
    ],
)
def test_unusable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], files, text: str) -> None:
    for name, content in files.items():
        put(tmp_path / "ml" / name, content)
    fails(capsys, convert(tmp_path, "movielens", "--input", tmp_path / "ml"), text)
    assert not (tmp_path / "out").exists()


def test_arguments_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, convert(tmp_path, "movielens"), "give either --input")
    fails(capsys, convert(tmp_path, "movielens", "--ratings", "x"), "belong together")
    fails(capsys, convert(tmp_path, "movielens", "--input", "x", "--movies", "y"), "give either --input")
    fails(capsys, convert(tmp_path, "movielens", "--input", tmp_path / "no"), "no such file or folder")


def test_latest_small_as_released(tmp_path: Path) -> None:
    folder = SHARED / "ml-latest-small"
    if not folder.is_dir():
        pytest.skip("needs ml-latest-small under $GENREC_SHARED/datasets")
    expected = "users=610,items=9724,interactions=100836"
    assert convert(tmp_path, "movielens", "--input", folder, "--expect", expected) == 0
    titles = titles_of(tmp_path)
    assert titles["11"] == "The American President (1995)" and "" not in titles.values()
    assert titles["7789"] == "11'09\"01 - September 11 (2002)"
    counts = report(tmp_path)["counts"]
    assert counts["items_sharing_title"] == 10 and counts["repeats"] == 0
    assert report(tmp_path)["rejects"]["count"] == 0
    before = bytes_of(tmp_path)
    pair = "--ratings", folder / "ratings.csv.gz", "--movies", folder / "movies.csv"
    assert convert(tmp_path, "movielens", *pair, "--force", "--expect", expected) == 0
    assert bytes_of(tmp_path) == before
