"""Texts from segments: against a loop over tokens, and every mistake."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_genrec.infilling.text import Segments

segment = st.tuples(st.lists(st.integers(0, 50), max_size=5), st.booleans(), st.booleans())


def table_of(segments) -> Segments:
    pieces, entity, maskable = zip(*segments)
    return Segments(pieces, np.array(entity), np.array(maskable))


def by_hand(segments, ids):
    """Token by token: (token, unit, entity, maskable)."""
    rows, unit = [], -1
    for number in ids:
        piece, entity, maskable = segments[number]
        for place, token in enumerate(piece):
            unit += not entity or place == 0
            rows.append((token, unit, entity, maskable))
    return rows


@given(st.lists(segment, min_size=1, max_size=6), st.data())
def test_text_is_its_segments_side_by_side(segments, data):
    ids = data.draw(st.lists(st.integers(0, len(segments) - 1), max_size=8))
    table = table_of(segments)
    text = table.text(np.array(ids, dtype=np.int64))
    assert list(zip(text.tokens, text.unit, text.entity, text.maskable)) == by_hand(segments, ids)
    assert table.lengths.tolist() == [len(piece) for piece, _, _ in segments]
    assert (text.tokens.dtype, text.unit.dtype, text.entity.dtype, text.maskable.dtype) == \
        (np.int64, np.int64, bool, bool)
    assert len(text) == len(text.tokens) and len(table) == len(segments)


def test_an_entity_twice_in_a_row_is_two_units():
    text = Segments([[5, 6]], [True], [True]).text(np.array([0, 0]))
    assert text.unit.tolist() == [0, 0, 1, 1] and text.entity.all()


@pytest.mark.parametrize("ids", [[2], [-1], [0, 5]])
def test_unknown_segments_are_refused(ids):
    with pytest.raises(ValueError, match=f"segment {ids[-1]} does not exist"):
        Segments([[1], [2]], [False, True], [True, True]).text(np.array(ids))


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match="entity has shape"):
        Segments([[1], [2]], [True], [True, True])
    with pytest.raises(ValueError, match="maskable has shape"):
        Segments([[1], [2]], [True, True], [True])
    with pytest.raises(ValueError, match="-3 is negative"):
        Segments([[1, -3]], [True], [True])
