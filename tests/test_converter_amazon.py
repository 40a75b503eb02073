"""Amazon reviews of 2014, 2018 and 2023 in their upstream forms."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from converter_helpers import (
    SHARED, column, convert, fails, header, put, rejects_of, report, sequences_of, table, titles_of,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_converters import amazon, reading
from dataset_converters.titles import clean_title

T = 1393545600  # 2014-02-28


def review(user: str, item: str, time: int = T, rating: float = 5.0, **more) -> str:
    """A line of 2014's 5-core files and, with ``more``, of 2018's."""
    return json.dumps({
        "reviewerID": user, "asin": item, "reviewerName": 'A. "B"', "helpful": [0, 0], "reviewText": "It's {so}\n",
        "overall": rating, "summary": "ok", "unixReviewTime": time, "reviewTime": "02 28, 2014", **more})  # fmt: skip


def review_2018(user: str, item: str, time: int = T, rating: float = 5.0) -> str:
    return review(user, item, time, rating, verified=True, vote="2", style={"Size:": " 7.0 oz"})


def review_2023(user: str, item: str, time: int = T * 1000, rating: float = 5.0, **more) -> str:
    return json.dumps({
        "rating": rating, "title": "Nice", "text": "Nice", "images": [], "asin": item[::-1], "parent_asin": item,
        "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True, **more})  # fmt: skip


META_2014 = [
    repr({"asin": "B000000001", "description": 'It\'s "5"', "title": "Fish &amp; Chips", "price": 9.99,
          "imUrl": "http://ecx.images-amazon.com/x.jpg", "related": {"also_bought": ["B000000002"]},
          "salesRank": {"Toys & Games": 3}, "brand": "Lego",
          "categories": [["Toys & Games", "Puzzles", "3-D Puzzles"], ["Toys & Games", "Games"]]}),
    "{'asin': 'B000000002', 'title': \"Ray's\\tPlace\", 'categories': [['Toys & Games']]}",
    "{'asin': 'B000000003', 'related': {'also_viewed': ['B000000001']}, 'categories': [['Toys & Games', 'Dolls']]}",
]  # fmt: skip
META_2018 = [
    json.dumps({"category": ["Toys & Games", "Puzzles", "3-D Puzzles"], "tech1": "", "description": ["x"], "fit": "",
                "title": "Fish &amp; Chips", "also_buy": ["B000000002"], "image": [], "brand": "Lego", "feature": [],
                "rank": ["1"], "main_cat": "Toys", "date": "", "price": "$1,009.99", "asin": "B000000001"}),
    json.dumps({"category": [], "title": "var aPageStart = (new Date()).getTime(); ", "brand": "\n\n by\n Foo",
                "price": ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget", "asin": "B000000002"}),
    json.dumps({"title": "", "price": "$1.00 - $2.00", "asin": "B000000003", "details": {"ASIN: ": "B000000009"}}),
]  # fmt: skip
META_2023 = [
    json.dumps({"main_category": "Toys", "title": "Fish &amp; Chips", "average_rating": 4.8, "rating_number": 1,
                "features": [], "description": [], "price": 9.99, "images": [{"hi_res": None}], "videos": [],
                "store": "Lego", "categories": ["Toys & Games", "Puzzles"], "details": {"Brand": "X"},
                "parent_asin": "B000000001", "bought_together": None}),
    json.dumps({"title": "Ray's", "price": None, "store": None, "categories": [], "parent_asin": "B000000002"}),
    json.dumps({"title": None, "price": "from 12.99", "store": "None", "parent_asin": "B000000003"}),
]  # fmt: skip
PLAYS = [("A1", "B000000003", 2), ("A1", "B000000001", 1), ("A2", "B000000002", 5), ("A1", "B000000002", 2)]
ORDER = {"A1": ["B000000001", "B000000003", "B000000002"], "A2": ["B000000002"]}


def _convert(folder: Path, reviews: list[str], meta: list[str], *options: str, pack=bytes) -> int:
    files = [put(folder / name, pack("".join(line + "\n" for line in lines).encode()))
             for name, lines in (("reviews", reviews), ("meta", meta))]  # fmt: skip
    return convert(folder, "amazon", "--reviews", files[0], "--meta", files[1], *options)


def _items(folder: Path) -> dict[str, list[str]]:
    return {user: [row[0] for row in rows] for user, rows in sequences_of(folder).items()}


@pytest.mark.parametrize(
    ("generation", "items"),
    [
        (2014, [
            ["B000000001", "Fish & Chips", "Toys_&_Games Puzzles 3-D_Puzzles Games", "Puzzles 3-D_Puzzles Games Lego",
             "Lego", "9.99"],
            ["B000000002", "Ray's Place", "Toys_&_Games", "", "", ""],
            ["B000000003", "", "Toys_&_Games Dolls", "Dolls", "", ""]]),
        (2018, [
            ["B000000001", "Fish & Chips", "Toys_&_Games Puzzles 3-D_Puzzles", "Puzzles 3-D_Puzzles Lego", "Lego",
             "1009.99"],
            ["B000000002", "", "", "by_Foo", "by Foo", ""],
            ["B000000003", "", "", "", "", ""]]),
        (2023, [
            ["B000000001", "Fish & Chips", "Toys_&_Games Puzzles", "Puzzles Lego", "Lego", "9.99"],
            ["B000000002", "Ray's", "", "", "", ""],
            ["B000000003", "", "", "None", "None", ""]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_generations(tmp_path: Path, generation: int, items: list[list[str]], pack) -> None:
    line = {2014: review, 2018: review_2018, 2023: review_2023}[generation]
    unit = 1000 if generation == 2023 else 1
    meta = {2014: META_2014, 2018: META_2018, 2023: META_2023}[generation]
    reviews = [line(user, item, (T + day) * unit) for user, item, day in PLAYS]
    assert _convert(tmp_path, reviews, meta, pack=pack) == 0
    assert _items(tmp_path) == ORDER
    assert table(tmp_path, "inter")[0] == ["A1", "B000000001", "1", str(T + 1), "5"]
    assert table(tmp_path, "item") == items
    assert header(tmp_path, "item")[4:] == ["brand:token", "price:float"]
    assert report(tmp_path)["notes"]["titles_of_page_script"] == (generation == 2018)
    assert rejects_of(tmp_path) == []


def test_milliseconds_order_and_survive(tmp_path: Path) -> None:
    times = {"c": 1588687728923, "a": 1588687728001, "b": 1588687728002}
    assert _convert(tmp_path, [review_2023("A", item, time) for item, time in times.items()], META_2023) == 0
    assert [row[:4] for row in table(tmp_path, "inter")] == [
        ["A", "a", "1", "1588687728.001"], ["A", "b", "2", "1588687728.002"], ["A", "c", "3", "1588687728.923"]]
    assert report(tmp_path)["counts"]["tied_pairs"] == 0


@pytest.mark.parametrize(
    "lines",
    [
        [f"{user},{item},5.0,{T + day}" for user, item, day in PLAYS],
        [f"{item},{user},5.0,{T + day}" for user, item, day in PLAYS],
        ["user_id,parent_asin,rating,timestamp", *(f"{u},{i},5.0,{T + d}000" for u, i, d in PLAYS)],
        ["user_id,parent_asin,rating,timestamp,history",
         *(f"{u},{i},5.0,{T + d}000,{'B000000001 B000000002' * d}" for u, i, d in PLAYS)],
    ],
)  # fmt: skip
def test_ratings_only(tmp_path: Path, lines: list[str]) -> None:
    meta = META_2023 if "user_id" in lines[0] else META_2014
    assert _convert(tmp_path, lines, meta) == 0
    assert _items(tmp_path) == ORDER and rejects_of(tmp_path) == []
    assert titles_of(tmp_path)["B000000001"] == "Fish & Chips"
    assert table(tmp_path, "inter")[0] == ["A1", "B000000001", "1", str(T + 1), "5"]


def test_order_of_columns_that_cannot_be_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"A00000000{n},B00000000{n},5.0,{T}" for n in range(3)]
    fails(capsys, _convert(tmp_path, lines, META_2014), "--columns")
    fails(capsys, _convert(tmp_path, ["me,you,5.0,5"], META_2014), "--columns")
    assert _convert(tmp_path, lines, META_2014, "--columns", "item,user,rating,timestamp") == 0
    assert list(_items(tmp_path)) == ["B000000000", "B000000001", "B000000002"]
    with pytest.raises(SystemExit, match="2"):
        _convert(tmp_path, lines, META_2014, "--columns", "item,user")


def test_files_are_one_in_the_given_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: put(tmp_path / name, [line]) for name, line in {
        "one": review("A", "B000000001"), "two": review("A", "B000000002"), "three": review_2023("A", "X"),
        "csv": f"A,B000000003,4.0,{T}", "m1": META_2014[0], "m2": META_2014[1]}.items()}  # fmt: skip
    some = "--reviews", paths["two"], paths["csv"], paths["one"], "--meta", paths["m1"], paths["m2"]
    assert convert(tmp_path, "amazon", *some) == 0
    assert _items(tmp_path) == {"A": ["B000000002", "B000000003", "B000000001"]}
    assert list(titles_of(tmp_path).values()) == ["Fish & Chips", "Ray's Place", ""]
    fails(capsys, convert(tmp_path, "amazon", "--reviews", paths["one"], paths["three"], "--meta", paths["m1"],
                          name="b"), "three: of another generation than one")  # fmt: skip


def test_first_metadata_with_a_title_wins(tmp_path: Path) -> None:
    meta = [{"asin": "a", "brand": "0"}, {"asin": "a", "title": "First", "brand": "1"}, {"asin": "a", "title": "No"}]
    assert _convert(tmp_path, [review("u", "a")], [json.dumps(line) for line in meta]) == 0
    assert titles_of(tmp_path) == {"a": "First"} and column(tmp_path, "item", "brand:token") == {"a": "1"}
    assert report(tmp_path)["notes"]["duplicate_metadata"] == 2 and rejects_of(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"reviewerID": "A", "asin": "a"', "{", "null", "[]", "7", '"x"', review("A", "a") + review("A", "b"),
        review("A", "a").replace('"asin": "a"', '"asin": null'), review("A", "a").replace('"asin"', '"nisa"'),
        review("", "a"), review("A\tB", "a"), review("A", "a\u2028"), review("A", "\ud800"),
        review("A", "a", 789), review("A", "a", T * 1000), review("A", "a", -1), review("A", "a", 2**70),
        review("A", "a").replace(str(T), f'"{T}"'), review("A", "a").replace(str(T), f"{T}.5"),
        review("A", "a").replace(str(T), "true"), review("A", "a").replace("5.0", '"five"'),
        review("A", "a").replace("5.0", "NaN"), review("A", "a").replace("5.0", "-Infinity"),
        review("A", "a").replace("5.0", "1e400"), review("A", "a").replace('"asin": "a"', '"asin": 5'),
        "[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000, "{'asin': __import__('os').system('touch owned')}",
        "{'reviewerID': 'A', 'asin': 'a'" + ", 'b': (" * 500,
    ],
)  # fmt: skip
def test_malformed_reviews_keep_their_number(tmp_path: Path, line: str) -> None:
    reviews = [review("A", "a", T), "", line, review("A", "b", T)]
    assert _convert(tmp_path, reviews, META_2014, "--max-rejects", "0.5") == 0
    assert rejects_of(tmp_path) == [("reviews", 3)]
    assert _items(tmp_path) == {"A": ["a", "b"]}
    assert not Path("owned").exists()


def test_malformed_metadata_keeps_its_number(tmp_path: Path) -> None:
    meta = ["{'asin': 'B000000001', 'title': ", *META_2014, "{'title': 'nobody'}", "{'asin': 5}", "\x00",
            "{'asin': 'unknown', 'title': "]  # fmt: skip
    reviews = [review("A", "B000000001"), review("A", "B000000002")]
    assert _convert(tmp_path, reviews, meta, "--max-rejects", "0.6") == 0
    assert rejects_of(tmp_path) == [("meta", 1), ("meta", 5), ("meta", 6), ("meta", 7)]
    assert titles_of(tmp_path) == {"B000000001": "Fish & Chips", "B000000002": "Ray's Place"}


def test_skipped_metadata_are_lines_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their share decides whether one malformed line in a big dump is too much."""
    others = [repr({"asin": f"X{n}", "title": "t"}) for n in range(1500)]
    assert _convert(tmp_path, [review("A", "B000000001")], [*others, *META_2014, "{"]) == 0
    assert rejects_of(tmp_path) == [("meta", 1504)]
    fails(capsys, _convert(tmp_path, [review("A", "B000000001")], [*META_2014, "{"], "--force"), "1 of 5 input lines")


def test_an_asin_inside_another_field_hides_no_item(tmp_path: Path) -> None:
    meta = [json.dumps({"title": "A 'asin': 'other' B", "note": {"asin": "other"}, "asin": "a"})]
    assert _convert(tmp_path, [review("u", "a")], meta) == 0
    assert titles_of(tmp_path) == {"a": "A 'asin': 'other' B"}


@pytest.mark.parametrize(("raw", "text"), [
    (9.99, "9.99"), ("$12.99", "12.99"), ("$1,012.50", "1012.5"), ("12", "12"), (5, "5"), (None, ""), ("None", ""),
    ("", ""), ("—", ""), ("from 9.99", ""), ("$1.00 - $2.00", ""), (True, ""), (float("nan"), ""), (-1, ""),
    (float("inf"), ""), ([], ""), (0.1 + 0.2, "0.3"),
])  # fmt: skip
def test_price(raw: object, text: str) -> None:
    assert amazon.price(raw) == text


@pytest.mark.parametrize(
    ("first", "text"),
    [("hello", "neither Amazon reviews nor"), ('{"x": 1}', "no Amazon review"), ("{", "no Amazon review"),
     (META_2014[0], "no Amazon review"), ("", "empty file")],
)  # fmt: skip
def test_files_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, text: str) -> None:
    fails(capsys, _convert(tmp_path, [first], META_2014), text)
    assert not (tmp_path / "out").exists()


# Any id and title that JSON can carry; half of the lines are as the fast reader likes them.
ids = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"),
              min_size=1, max_size=4) | st.sampled_from(["NA", "null", "nan", '"', "\\", " "])  # fmt: skip
lines = st.tuples(ids, ids, st.integers(10**9, 2 * 10**9), st.sampled_from([1.0, 2.5, 5]), st.integers(0, 3))
junk = st.sampled_from(["{", "null", "{}", '{"reviewerID": "a"}', "x" * 50, '{"reviewerID": 5, "asin": "b"}'])


def _spell(user: str, item: str, time: int, rating: float, style: int) -> str:
    record = {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": time, "reviewText": "\\\"'{}"}
    if style == 3:
        return repr(record)
    return " " * (style == 2) + json.dumps(record, ensure_ascii=style == 1)


@settings(max_examples=80, deadline=None)
@given(st.lists(lines | junk | st.just(""), max_size=30), st.lists(lines, min_size=1, max_size=9),
       st.integers(40, 2000), st.dictionaries(ids, st.text(max_size=30), max_size=5))  # fmt: skip
def test_what_goes_in_comes_out(mixed, good, block, titles):
    rows = [("u", "i", 10**9, 1.0, 0), *mixed, *good]
    text = [row if isinstance(row, str) else _spell(*row) for row in rows]
    meta = [repr({"asin": item, "title": title}) for item, title in titles.items()] + ["{'asin': 'x'}"]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", block)
        folder = Path(name)
        assert _convert(folder, text, meta, "--max-rejects", "1") == 0
        bad = [number for number, row in enumerate(rows, 1) if isinstance(row, str) and row]
        assert rejects_of(folder) == [("reviews", number) for number in bad]
        expected: dict[str, list] = {}
        for row in rows:
            if not isinstance(row, str):
                expected.setdefault(row[0], []).append(row)
        assert [[row[0], row[1], row[3], float(row[4])] for row in table(folder, "inter")] == [
            [user, item, str(time), rating] for mine in expected.values()
            for user, item, time, rating, _ in sorted(mine, key=lambda row: row[2])]  # fmt: skip
        assert titles_of(folder) == {item: clean_title(titles.get(item, "")) for mine in expected.values()
                                     for _, item, *_ in mine}  # fmt: skip


# --- the real data

def _dump(folder: Path, name: str) -> list[str]:
    """reviews and meta in the form of 2014, sorted by asin as the dumps are, from the shared sequences."""
    def lines(file: str) -> list[str]:
        return gzip.decompress((SHARED / name / file).read_bytes()).decode().rstrip("\n").split("\n")

    rows = [(item, user, int(time)) for owner, times in zip(lines("user_sequences.txt.gz"),
                                                            lines("user_timestamps.txt.gz"))
            for user in [owner.split()[0]] for item, time in zip(owner.split()[1:], times.split()[1:])]  # fmt: skip
    rows.sort(key=lambda row: row[0])
    categories = {record["asin"]: record["categories"] for record in map(json.loads, lines("item_categories.jsonl.gz"))}
    meta = []
    for item, title in (line.split("\t") for line in lines("item_titles.tsv.gz")):
        record = {"asin": item, "title": title, "price": 1.5, "categories": categories[item]}
        meta.append(repr({key: value for key, value in record.items() if value != ""}))
    meta.insert(7, repr({"asin": "not here", "title": "Not bought"}))
    return ["--reviews", str(put(folder / "r.json", [review(user, item, time) for item, user, time in rows])),
            "--meta", str(put(folder / "m.json", meta))]  # fmt: skip


def test_the_2014_dump_gives_what_the_published_sequences_give(tmp_path: Path) -> None:
    name = "amazon-toys"
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {name} under $GENREC_SHARED/datasets")
    folder = SHARED / name
    ready = ["--sequences", folder / "user_sequences.txt.gz", "--timestamps", folder / "user_timestamps.txt.gz",
             "--titles", folder / "item_titles.tsv.gz", "--categories", folder / "item_categories.jsonl.gz"]
    expected = ["--expect", "users=19412,items=11924,interactions=167597", "--k-core", "5"]
    dump = _dump(tmp_path, name)
    assert convert(tmp_path, "sequences", *ready, *expected, name="ready") == 0
    assert convert(tmp_path, "amazon", *dump, *expected) == 0
    dumped, published = sequences_of(tmp_path), sequences_of(tmp_path, "ready")
    assert {user: [row[:3] for row in rows] for user, rows in dumped.items()} == published
    assert [row[:3] for row in table(tmp_path, "item")] == [row[:3] for row in table(tmp_path, "item", "ready")]
    assert set(column(tmp_path, "item", "price:float").values()) == {"1.5"}
