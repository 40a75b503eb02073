"""Blocks of lines and the two ways of reading JSON lines, which must mean the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_converters import reading
from dataset_converters.parsing import Field, Rows, json_lines, json_lines_slowly, match
from dataset_converters.reading import Block, ConversionError, InputFile, Rejects

FIELDS = {"text": Field("a", pa.string()), "real": Field("b", pa.float64()), "whole": Field("c", pa.int64())}


def _same(one: Rows, other: Rows) -> None:
    assert one.line.tolist() == other.line.tolist()
    assert sorted(one.rejects) == sorted(other.rejects) and one.lines_read == other.lines_read
    for name in one.columns:
        assert repr(one.columns[name].to_pylist()) == repr(other.columns[name].to_pylist())
        assert one.columns[name].type == other.columns[name].type


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([1, {"a": 2}])
typed = st.fixed_dictionaries({}, optional={"a": st.text(max_size=5) | st.none(), "b": st.floats() | st.integers(0, 9),
                                            "c": st.integers(-(2**63), 2**63 - 1)})  # fmt: skip
records = st.one_of(typed, st.dictionaries(st.sampled_from("abcd"), values, max_size=4))
spelled = st.builds(lambda record, plain: json.dumps(record, ensure_ascii=plain).encode("utf-8", "replace"),
                    records, st.booleans())  # fmt: skip
crude = st.sampled_from([
    b"null", b"[1]", b"7", b"{", b"}", b'{"a":"x"} {"a":"y"}', b'{"a":"x"}{}', b'{"a":"x"} null {}',
    b'{"a":"x","a":"y"}',
    b'{"a":"x"},', b'{"b":1e999}', b'{"c":1.0}', b'{"c":1e3}', b'{"c":01}', b'{"b":1.}', b'{"a":"\t"}', b'{"b":NaN}',
    b'{"a":"\\ud800"}', b'{"a":"\\u0000"}', b"", b"  ", b' {"a":"x"}', b'{"a":"x"} ', b'{"a":', b'"x"}', b"{'a': 'x'}",
    b'{"a":{"a":"x"}}', b'{"d":"}\\n{"}', b'{"b":"5"}', b'{"a":"x"}\r', b'{"a":"x"}}', b'{}', b'{"d":{}', b'{"a":"q"}}',
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(spelled | crude, min_size=1, max_size=6), st.integers(1, 1000))
def test_the_fast_way_is_the_slow_way(lines: list[bytes], first: int) -> None:
    block = Block(first, b"".join(line + b"\n" for line in lines))
    _same(json_lines(block, FIELDS), json_lines_slowly(block, FIELDS))


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset_converters.parsing.json_lines_slowly", lambda *_: pytest.fail("slow"))
    text = b'{"a":"x","d":[{"e":null}],"b":5}\r\n{"c":7,"d":3}\r\n'
    rows = json_lines(Block(3, text), FIELDS)
    assert rows.columns["text"].to_pylist() == ["x", None] and rows.columns["whole"].to_pylist() == [None, 7]
    assert rows.line.tolist() == [3, 4]


def test_match_counts_blank_lines_as_nothing() -> None:
    rows = match(Block(5, b"a=1\n\n \t\r\nb\nc=2 \r\n"), r"(?P<key>\w)=(?P<value>\d)", "no pair")
    assert rows.columns["key"].to_pylist() == ["a", "c"] and rows.columns["value"].to_pylist() == ["1", "2"]
    assert rows.line.tolist() == [5, 9] and rows.rejects == [(8, "no pair")] and rows.lines_read == 3


def test_rejecting_rows_keeps_columns_and_lines_together() -> None:
    rows = Rows({"x": pa.array([1, None, 3, 4])}, np.array([2, 4, 6, 8]), 4)
    rows.reject_null("x", "none")
    rows.reject(np.array([True, False, False]), "first")
    assert rows.columns["x"].to_pylist() == [3, 4] and rows.line.tolist() == [6, 8]
    assert rows.rejects == [(4, "none"), (2, "first")]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab\r\u2028é ", max_size=6), min_size=1, max_size=12), st.integers(1, 40), st.booleans(),
       st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]))  # fmt: skip
def test_blocks_are_whole_lines_with_their_numbers(tmp_path_factory, lines, size, ended, encoding):
    if encoding == "latin-1":
        lines = ["ü", *(line.replace("\u2028", "") for line in lines)]
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(("x\n" + "\n".join(lines) + "\n" * ended).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", size)
        file = InputFile(path, Rejects(1))
        blocks = list(file.blocks())
        numbered = list(file.lines())
    assert all(block.text.endswith(b"\n") for block in blocks)
    text = b"".join(block.text for block in blocks).decode()
    assert text == "x\n" + "\n".join(lines) + "\n" * (ended or bool(lines[-1]))
    assert [block.first for block in blocks] == np.cumsum(
        [1, *(block.text.count(b"\n") for block in blocks)])[:-1].tolist()  # fmt: skip
    assert [number for number, _ in numbered] == [n for n, line in enumerate(["x", *lines], 1) if line.strip(" \r")]


def test_a_file_without_lines_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    monkeypatch.setattr(reading, "_LONGEST_LINE", 1000)
    (tmp_path / "f").write_bytes(b"one\n" + b"x" * 2000)
    with pytest.raises(ConversionError, match="line 2 is no line of text"):
        list(InputFile(tmp_path / "f", Rejects(1)).blocks())
