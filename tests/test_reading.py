"""Atomic files: raw text by a fast parser, the same frame as RecBole's wherever RecBole reads it right."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
from data_helpers import config_of, random_interactions, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.reading import read_atomic
from recbole_genrec.errors import UserError

#: One field: anything that ends no line and no field. pandas takes a NUL for the end.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\x00"), max_size=8)
TEXT |= st.sampled_from(
    ["NA", "null", "nan", "None", "N/A", "", '"', '"a', 'a"b"', "''", "007", "1e5", " x ", "#", "\\", "\\N", "-", "é"])
NUMBER = st.floats(allow_nan=False, width=64) | st.integers(-2**53, 2**53) | st.just(None)
COLUMNS = {"a:token": str, "b:float": np.float64, "c:token_seq": str}


def write(path, rows, end="\n", encoding="utf-8"):
    lines = ["\t".join(COLUMNS), *("\t".join("" if value is None else str(value) for value in row) for row in rows)]
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return str(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, NUMBER, TEXT.filter(bool)), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_the_frame_is_that_of_pandas_slow_parser(tmp_path, rows, end):
    """RecBole's engine, told that quotes and words are text. Floats are exact, strings untouched."""
    path = write(tmp_path / "x", rows, end)
    ours = read_atomic(path, delimiter="\t", usecols=list(COLUMNS), dtype=COLUMNS)
    theirs = pd.read_csv(path, delimiter="\t", usecols=list(COLUMNS), dtype=COLUMNS, engine="python",
                         quoting=csv.QUOTE_NONE, keep_default_na=False, na_values={name: [""] for name in COLUMNS},
                         lineterminator=None)
    if len(theirs) == len(rows):  # Python splits lines at more than line breaks
        pd.testing.assert_frame_equal(ours, theirs)
    assert [value if isinstance(value, str) else "" for value in ours["a:token"]] == [row[0] for row in rows]
    assert [value for value in ours["c:token_seq"]] == [row[2] for row in rows]
    assert [None if np.isnan(value) else value for value in ours["b:float"]] == [row[1] for row in rows]


def test_columns_come_in_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "x", [("one", 2, "three")])
    assert list(read_atomic(path, "\t", ["c:token_seq", "a:token"], COLUMNS)) == ["a:token", "c:token_seq"]


def test_equal_strings_are_one_object(tmp_path):
    """What keeps 25 million user ids small."""
    column = read_atomic(write(tmp_path / "x", [("user", 1, "x")] * 50), "\t", list(COLUMNS), COLUMNS)["a:token"]
    assert len({id(value) for value in column}) == 1


def test_another_encoding(tmp_path):
    path = write(tmp_path / "x", [("Amélie", 1, "x")], encoding="latin-1")
    assert read_atomic(path, "\t", list(COLUMNS), COLUMNS, encoding="latin-1")["a:token"][0] == "Amélie"
    with pytest.raises(UserError, match="x cannot be read"):
        read_atomic(path, "\t", list(COLUMNS), COLUMNS)


def test_a_data_set_in_another_encoding_is_a_users_mistake(tmp_path):
    data = write_dataset(tmp_path, random_interactions(users=5), titles={f"i{item}": "Amélie" for item in range(30)})
    path = tmp_path / "tiny" / "tiny.item"
    path.write_bytes(path.read_text("utf-8").encode("latin-1"))
    with pytest.raises(UserError, match="tiny.item.*utf-8"):
        GenRecDataset(config_of(data))
    assert GenRecDataset(config_of(data, encoding="latin-1")).item_num == 31


@pytest.mark.parametrize("line, said", [
    ("u1\ti1", "line 3 has 2 fields, its header 3"), ("u1\ti1\t1\t2", "line 3 has 4 fields"),
    ("u1\ti1\tsoon", "'soon'"),
], ids=["short", "long", "no number"])
def test_a_line_that_does_not_fit_is_a_users_mistake(tmp_path, line, said):
    data = write_dataset(tmp_path, random_interactions(users=5))
    path = tmp_path / "tiny" / "tiny.inter"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=said):
        GenRecDataset(config_of(data))


def test_a_wrong_line_far_into_a_big_file_is_named(tmp_path):
    """Several of the parser's blocks in."""
    rows = [f"user{number}\t{number}\tword" for number in range(150_000)]
    rows[140_000] += "\tone too many"
    path = tmp_path / "x"
    path.write_text("\n".join(["\t".join(COLUMNS), *rows]))
    with pytest.raises(UserError, match="line 140002 has 4 fields"):
        read_atomic(str(path), "\t", list(COLUMNS), COLUMNS)
