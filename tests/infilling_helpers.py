"""Texts with entities for the tests of infilling."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from recbole_genrec.infilling.text import Segments, Text

NEWLINE, CLS, EOS, START, END, MASK, SMASK, GMASK = 10, 1, 2, 3, 4, 5, 6, 7


def text_of(*pieces, maskable=None) -> Text:
    """A text of plain words (numbers) and entities (lists)."""
    table = Segments([piece if isinstance(piece, list) else [piece] for piece in pieces],
                     [isinstance(piece, list) for piece in pieces], maskable or [True] * len(pieces))
    return table.text(np.arange(len(pieces)))


def behaviours(titles: int, tokens: int = 9, first: int = 100) -> Text:
    """Titles of that many tokens, one a line."""
    numbers = np.arange(first, first + titles * tokens).reshape(titles, tokens).tolist()
    return text_of(*(part for title in numbers for part in (title, NEWLINE)))


#: Texts over few tokens; plain token NEWLINE ends a sentence, and so does 11; both may stand in entities as well.
words = st.integers(NEWLINE, 16)
pieces = st.lists(st.one_of(words, words, st.lists(words, min_size=1, max_size=5)), min_size=1, max_size=30)


@st.composite
def texts(draw, all_maskable: bool = False) -> Text:
    parts = draw(pieces)
    maskable = None if all_maskable or draw(st.booleans()) else [draw(st.integers(0, 5)) > 0 for _ in parts]
    return text_of(*parts, maskable=maskable)
