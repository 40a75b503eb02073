"""The Yelp open dataset in its upstream form, as files and inside archives."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest
from converter_helpers import convert, fails, put, rejects_of, report, sequences_of, table, titles_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_converters import reading

REVIEW, BUSINESS = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"


def review(user: str, item: str, date: object = "2019-03-01 12:00:00", stars: object = 4.0, **more: object) -> str:
    return json.dumps({"review_id": "KU_O5udG6zpxOg-VcAEodg", "user_id": user, "business_id": item, "stars": stars,
                       "useful": 0, "funny": 0, "cool": 0, "text": 'So "good"!\n\nYes.', "date": date, **more},
                      separators=(",", ":"))  # fmt: skip


BUSINESSES = [
    json.dumps({"business_id": "b1", "name": "Joe's &amp; Co", "address": "", "city": "Phoenix", "state": "AZ",
                "stars": 3.0, "review_count": 5, "is_open": 0, "attributes": {"GoodForKids": "False"},
                "categories": "Golf, Active Life", "hours": None}),
    json.dumps({"business_id": "b2", "name": "Café ☕", "city": "X", "categories": None}),
    json.dumps({"business_id": "b3", "full_address": "x", "open": True, "categories": ["Bars", "Fast Food"],
                "name": "Joe's & Co", "neighborhoods": [], "type": "business"}),
]  # fmt: skip
REVIEWS = [
    review("u1", "b2", "2019-03-02"), review("u2", "b1", stars=5), review("u1", "b1", "2019-03-01 23:59:59"),
    review("u1", "b2", "2019-03-02 00:00:00", type="review", votes={"funny": 0}),
]  # fmt: skip


def _files(folder: Path, reviews: list[str], businesses: list[str] = BUSINESSES) -> list[str]:
    return ["--reviews", str(put(folder / REVIEW, reviews)), "--businesses", str(put(folder / BUSINESS, businesses))]


def _check(folder: Path) -> None:
    assert {user: [row[0] for row in rows] for user, rows in sequences_of(folder).items()} == {
        "u1": ["b1", "b2", "b2"], "u2": ["b1"]}  # fmt: skip
    assert table(folder, "inter")[0] == ["u1", "b1", "1", "1551484799", "4"]
    assert table(folder, "item") == [
        ["b1", "Joe's & Co", "Golf Active_Life", "Golf Active_Life"], ["b2", "Café ☕", "", ""]]  # fmt: skip
    assert rejects_of(folder) == []


def test_files(tmp_path: Path) -> None:
    assert convert(tmp_path, "yelp", *_files(tmp_path, REVIEWS)) == 0
    _check(tmp_path)
    assert report(tmp_path)["counts"]["repeats"] == 1


def _tar(mode: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _members(count: int = 1) -> dict[str, bytes]:
    lines = {f"Yelp JSON/{BUSINESS}": BUSINESSES, "Yelp JSON/Dataset_User_Agreement.pdf": ["%PDF"],
             f"Yelp JSON/{REVIEW}": REVIEWS * count}  # fmt: skip
    return {name: "".join(line + "\n" for line in content).encode() for name, content in lines.items()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "zip"])
def test_archives(tmp_path: Path, mode: str) -> None:
    if mode == "zip":
        with zipfile.ZipFile(tmp_path / "yelp.x", "w") as archive:
            for name, content in _members().items():
                archive.writestr(name, content)
    else:
        put(tmp_path / "yelp.x", _tar(mode, _members()))
    assert convert(tmp_path, "yelp", "--tar", tmp_path / "yelp.x") == 0
    _check(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == ["yelp.x"], "nothing is unpacked"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (_tar("w", _members(999))[:9000], "damaged archive"),
        (_tar("w:gz", _members(9))[:-200], "yelp.tar"),
        (_tar("w", {"other.json": b"{}"}), f"holds no {REVIEW}"),
        (_tar("w", {REVIEW: b"", BUSINESS: b"{}"}), "empty file"),
        (b"x" * 2000, "neither a folder nor a zip or tar"),
    ],
)
def test_damaged_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, text: str) -> None:
    fails(capsys, convert(tmp_path, "yelp", "--tar", put(tmp_path / "yelp.tar", content)), text)
    assert not (tmp_path / "out").exists()


def test_window_of_s3_rec(tmp_path: Path) -> None:
    dates = ["2018-12-31 23:59:59", "2019-01-01 00:00:00", "2019-12-31 23:59:59", "2020-01-01 00:00:00"]
    reviews = [review("u", f"b{n}", date) for n, date in enumerate(dates)]
    window = "--since", "2019-01-01", "--until", "2019-12-31"
    assert convert(tmp_path, "yelp", *_files(tmp_path, reviews), *window) == 0
    assert [row[1] for row in table(tmp_path, "inter")] == ["b1", "b2"]
    assert [step["interactions"] for step in report(tmp_path)["filters"]] == [4, 2]


@pytest.mark.parametrize(
    "line",
    [
        review("u", "b", date) for date in (
            "2019-02-30", "2019-13-01", "2019-3-1", "2019-03-01T12:00:00", "2019-03-01 24:00:01", "2019-03-01 12:60:00",
            "2019-03-01 12:00", "", None, 5, "2019-03-01 12:00:00+01:00", "２019-03-01", " 2019-03-01", "2019-03-01\n")
    ] + [review("u", "b", stars=None), review("u", "b", stars="4"), review("", "b"), '{"type":"user"}', BUSINESSES[0]],
)  # fmt: skip
def test_malformed_reviews_keep_their_number(tmp_path: Path, line: str) -> None:
    assert convert(tmp_path, "yelp", *_files(tmp_path, [*REVIEWS, line, ""]), "--max-rejects", "0.2") == 0
    assert rejects_of(tmp_path) == [(REVIEW, 5)]
    assert len(table(tmp_path, "inter")) == 4


def test_swapped_files_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped = _files(tmp_path, BUSINESSES, REVIEWS)
    fails(capsys, convert(tmp_path, "yelp", *swapped), "3 of 3 input lines are malformed")


def test_arguments_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, convert(tmp_path, "yelp"), "give either --tar")
    fails(capsys, convert(tmp_path, "yelp", "--reviews", "x"), "belong together")
    fails(capsys, convert(tmp_path, "yelp", "--tar", tmp_path / "no"), "no such file")


def test_gzip_members_are_read_and_a_line_that_is_not_utf_8_is_a_reject(tmp_path: Path) -> None:
    """One bad byte garbles no other name: JSON is UTF-8."""
    names = ['{"business_id": "b1", "name": "Café"}\n'.encode(code) for code in ("latin-1", "utf-8")]
    members = {REVIEW + ".gz": gzip.compress(REVIEWS[1].encode()), BUSINESS: b"".join(names)}
    path = put(tmp_path / "t", _tar("w", members))
    assert convert(tmp_path, "yelp", "--tar", path, "--max-rejects", "0.5") == 0
    assert titles_of(tmp_path) == {"b1": "Café"} and rejects_of(tmp_path) == [(BUSINESS, 1)]


moments = st.datetimes(datetime(2004, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.replace(microsecond=0))
junk = st.sampled_from(["{", review("u", "b", "yesterday"), review("u", "b", "2019-02-29"), "{}"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("uvw"), st.text("bc\u00e9 ", min_size=1, max_size=2), moments) | junk,
                max_size=20), moments, st.integers(50, 2000))  # fmt: skip
def test_every_review_once_in_time_order(mixed, first, block):
    rows = [("u", "b", first), *mixed]
    text = [row if isinstance(row, str) else review(row[0], row[1], str(row[2])) for row in rows]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", block)
        folder = Path(name)
        assert convert(folder, "yelp", *_files(folder, text), "--max-rejects", "1") == 0
        assert rejects_of(folder) == [(REVIEW, n) for n, row in enumerate(rows, 1) if isinstance(row, str)]
        expected: dict[str, list] = {}
        for row in rows:
            if not isinstance(row, str):
                expected.setdefault(row[0], []).append(row)
        assert [row[:2] + row[3:4] for row in table(folder, "inter")] == [
            [user, item, str(int(moment.replace(tzinfo=timezone.utc).timestamp()))] for mine in expected.values()
            for user, item, moment in sorted(mine, key=lambda row: row[2])]  # fmt: skip
