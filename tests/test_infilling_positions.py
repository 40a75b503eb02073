"""Intra ids: the automaton against a token-by-token reference, and filling a batch against stepping through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import trie_of
from hypothesis import given, settings
from hypothesis import strategies as st
from infilling_helpers import CLS, END, EOS, GMASK, MASK, NEWLINE, SMASK, START, behaviours, text_of

from recbole_genrec.infilling.blanks import Sample, Specials, collate, fill_in
from recbole_genrec.infilling.positions import RULES, EntityPositions, pool

SPECIALS = Specials(CLS, EOS, START, END, MASK, SMASK, GMASK)
# Few words, so that titles begin, contain and repeat one another; NEWLINE may stand inside them.
word = st.integers(NEWLINE, 14)
entities = st.lists(st.lists(word, min_size=1, max_size=5), min_size=1, max_size=8)
#: What a model might say: words, tokens of no entity, greater ones than any, separators often.
said = st.one_of(word, word, st.just(NEWLINE), st.sampled_from([0, 9, 15, 16, 10 ** 6, 2 ** 40]))


class Reference:
    """The rule for one sequence, as it is written down: a path as a tuple, and a set of all prefixes."""

    def __init__(self, spellings, rule, limit=10 ** 9):
        self.whole_ones = {tuple(spelling) for spelling in spellings}
        self.prefixes = {spelling[:k] for spelling in self.whole_ones for k in range(len(spelling) + 1)}
        self.rule, self.limit = rule, limit
        self.start()

    def start(self):
        self.id, self.path, self.fresh, self.armed, self.whole = 1, (), True, True, False

    def step(self, token) -> int:
        if token == START:
            self.start()
            return 1
        getattr(self, self.rule)(token)
        self.fresh, self.armed = False, token == NEWLINE
        self.whole = self.path in self.whole_ones
        if token == NEWLINE:
            self.path = None
        return min(self.id, self.limit)

    def grow(self, token):
        if self.path is not None and (*self.path, token) in self.prefixes:
            self.path, self.id = (*self.path, token), self.id + 1
        elif self.armed and (token,) in self.prefixes:
            self.path, self.id = (token,), self.id + 1 if self.fresh else 1
        else:
            self.path, self.id = None, 1 if self.whole and not self.fresh else self.id + 1

    def literal(self, token):
        if self.path is not None and (*self.path, token) in self.prefixes:
            self.path, self.id = (*self.path, token), self.id + 1
        else:
            self.id = 2 if self.fresh else 1
            self.path = (token,) if (token,) in self.prefixes else None

    def ids(self, tokens) -> list[int]:
        """Ids of a span's tokens after [START]."""
        self.start()
        return [self.step(token) for token in tokens]


def positions_of(spellings, rule, limit=10 ** 9) -> EntityPositions:
    return EntityPositions(pool(spellings, END), START, NEWLINE, rule, limit)


def stepped(positions: EntityPositions, tokens) -> list[int]:
    """Ids of a span's tokens after [START], one step after another."""
    state, ids = positions.begin(1), []
    for token in tokens:
        state = positions.step(state, torch.tensor([token]))
        ids.append(int(state.intra))
    return ids


def batch_of(rows: list[list[list[int]]], heads: list[int] | None = None):
    """A batch of rows of spans (without [START]); the length of A differs from row to row."""
    samples = []
    for number, spans in enumerate(rows):
        sep = heads[number] if heads else 1 + number % 3
        tokens = [START] * sep + [token for span in spans for token in (START, *span)]  # no token of A is looked at
        blank = np.zeros(len(tokens), dtype=np.int64)
        intra = np.where(np.arange(len(tokens)) < sep, 7, 0)
        label = np.where(np.arange(len(tokens)) < sep, -100, 0)
        samples.append(Sample(np.array(tokens), blank, intra, label, blank, sep))
    return collate(samples)


def filled(positions, rows) -> list[list[list[int]]]:
    """Ids that fill gives to each span, [START]'s left out (and looked at here)."""
    batch = batch_of(rows)
    before = {name: getattr(batch, name).clone() for name in ("tokens", "intra", "label", "lengths")}
    result = positions.fill(batch)
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items()), "fill changed its argument"
    assert (result.intra[~batch.mask] == 0).all()
    out = []
    for row, spans in enumerate(rows):
        sep = int(batch.sep[row])
        assert (result.intra[row, :sep] == 7).all()
        column, ids = sep, []
        for span in spans:
            assert result.intra[row, column] == 1
            ids.append(result.intra[row, column + 1:column + 1 + len(span)].tolist())
            column += len(span) + 1
        out.append(ids)
    return out


@pytest.mark.parametrize("rule", RULES)
@given(entities, st.lists(said, max_size=25))
@settings(max_examples=150)
def test_steps_are_the_reference_token_by_token(rule, spellings, tokens):
    assert stepped(positions_of(spellings, rule), tokens) == Reference(spellings, rule).ids(tokens)


@pytest.mark.parametrize("rule", RULES)
@given(entities, st.lists(st.lists(st.lists(said, max_size=25), min_size=1, max_size=3), min_size=1, max_size=4))
@settings(max_examples=150)
def test_filling_a_batch_is_stepping_through_it(rule, spellings, rows):
    reference = Reference(spellings, rule)
    assert filled(positions_of(spellings, rule), rows) == [[reference.ids(span) for span in spans] for spans in rows]


@pytest.mark.parametrize("rule", RULES)
def test_filling_is_stepping_for_long_spans_of_real_shape(rule):
    """Longer than hypothesis makes them: spans of hundreds of tokens over titles that begin alike."""
    rng = np.random.default_rng(0)
    spellings = [rng.integers(11, 16, rng.integers(1, 9)).tolist() for _ in range(60)]
    rows = []
    for _ in range(8):
        span = []
        for _ in range(40):
            span += spellings[rng.integers(60)] if rng.random() < .7 else rng.integers(10, 18, 12).tolist()
            span += [NEWLINE] * (rng.random() < .6)
        rows.append([span, span[:50]])
    reference = Reference(spellings, rule)
    assert filled(positions_of(spellings, rule), rows) == [[reference.ids(span) for span in spans] for spans in rows]


@pytest.mark.parametrize("rule", RULES)
@given(entities, st.integers(0, 10 ** 6))
def test_beams_have_the_ids_of_teacher_forcing_after_any_reordering(rule, spellings, seed):
    """Beams are reordered at random at every step; another mask may begin at any of them."""
    rng, users, beams = np.random.default_rng(seed), 2, 3
    positions = positions_of(spellings, rule)
    state = positions.begin((users, beams))
    history = [[[(START, 1)] for _ in range(beams)] for _ in range(users)]
    for _ in range(12):
        parent = torch.from_numpy(rng.integers(0, beams, (users, beams)))
        state = state.gather(parent)
        history = [[list(history[user][beam]) for beam in parent[user]] for user in range(users)]
        token = torch.from_numpy(rng.choice([START, *range(9, 16), NEWLINE], (users, beams)))
        state = positions.step(state, token)
        for user in range(users):
            for beam in range(beams):
                history[user][beam].append((int(token[user, beam]), int(state.intra[user, beam])))
    flat = [beam for user in history for beam in user]
    samples = []
    for beam in flat:
        tokens = np.array([token for token, _ in beam])
        zeros = np.zeros(len(tokens) + 1, dtype=np.int64)
        samples.append(Sample(np.append(CLS, tokens), zeros, zeros, zeros, zeros, 1))
    result = positions.fill(collate(samples))
    assert result.intra[:, 1:].tolist() == [[intra for _, intra in beam] for beam in flat]


def known_segmentation(parts) -> list[int]:
    """Ids of a span of whole entities (lists) and separators, from its segmentation (rule grow)."""
    ids, last, after_entity = [], 1, False
    for number, part in enumerate(parts):
        for place, _ in enumerate(part if isinstance(part, list) else [part]):
            new = place == 0 and number > 0 and (isinstance(part, list) or after_entity)
            last = 1 if new else last + 1
            ids.append(last)
        after_entity = isinstance(part, list)
    return ids


@given(st.lists(st.lists(st.integers(11, 14), min_size=1, max_size=5), min_size=1, max_size=8), st.data())
@settings(max_examples=150)
def test_lists_of_entities_are_segmented_as_they_are_known(spellings, data):
    """The separator is in no entity; titles share an alphabet, so they begin and contain one another."""
    chosen = data.draw(st.lists(st.sampled_from(spellings), min_size=1, max_size=8))
    parts = [part for title in chosen for part in (title, NEWLINE)]
    tokens = [token for part in parts for token in (part if isinstance(part, list) else [part])]
    assert stepped(positions_of(spellings, "grow"), tokens) == known_segmentation(parts)


@given(st.lists(st.lists(st.integers(11, 14), min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_free_text_over_other_words(spellings, data):
    """Words of no entity: they count on (grow) or have 1 (literal), and an entity after a separator starts at 1."""
    plain = data.draw(st.lists(st.integers(20, 25), min_size=1, max_size=6))
    title = data.draw(st.sampled_from(spellings))
    tokens = [*plain, NEWLINE, *title, *plain]
    n, k = len(plain), len(title)
    assert stepped(positions_of(spellings, "grow"), tokens) == \
        [*range(2, n + 3), *range(1, k + 1), *range(1, n + 1)]
    assert stepped(positions_of(spellings, "literal"), tokens) == \
        [2, *[1] * n, *range(1, k + 1), *[1] * n]


@given(entities, st.data())
def test_both_rules_agree_on_a_single_entity(spellings, data):
    """Ids 2, 3, ..., k + 1, whatever entities it begins with or contains; no separator may stand inside."""
    spellings = [[token + 1 for token in spelling] for spelling in spellings]
    title = data.draw(st.sampled_from(spellings))
    for rule in RULES:
        assert stepped(positions_of(spellings, rule), title) == list(range(2, len(title) + 2))


A, B, C, X, Y = 11, 12, 13, 20, 21  # X and Y are in no entity
CASES = {
    "prefix title, the longer goes on": ([[A], [A, B, C]], [A, B, C], [2, 3, 4], [2, 3, 4]),
    "prefix title, left where it is whole": ([[A, B], [A, B, C]], [A, B, X, Y], [2, 3, 1, 2], [2, 3, 1, 1]),
    "unfinished path counts on": ([[A, B, C]], [A, B, X, Y], [2, 3, 4, 5], [2, 3, 1, 1]),
    "whole once, unfinished when left": ([[A], [A, B, C]], [A, B, X], [2, 3, 4], [2, 3, 1]),
    "an unfinished path on a line of its own": ([[A, B, C]], [X, NEWLINE, A, B, X], [2, 3, 1, 2, 3], [2, 1, 1, 2, 1]),
    "title repeated at once": ([[A, B]], [A, B, A, B], [2, 3, 1, 2], [2, 3, 1, 2]),
    "title repeated, one a line": ([[A, B]], [A, B, NEWLINE, A, B], [2, 3, 1, 1, 2], [2, 3, 1, 1, 2]),
    "title within a title": ([[A, B, C], [B]], [A, B, C], [2, 3, 4], [2, 3, 4]),
    "title within a failed path": ([[A, B, C], [B, X]], [A, B, X], [2, 3, 4], [2, 3, 1]),
    "the token a path fails at starts another": ([[A, B, C], [X, Y]], [A, B, X, Y], [2, 3, 4, 5], [2, 3, 1, 2]),
    "title in the midst of words": ([[A, B]], [X, A, B, Y], [2, 3, 4, 5], [2, 1, 2, 1]),
    "one-token entity": ([[A]], [A, NEWLINE, A, NEWLINE, A], [2, 1, 1, 1, 1], [2, 1, 1, 1, 1]),
    "no entity at all": ([[A, B]], [X, Y, X], [2, 3, 4], [2, 1, 1]),
    "separators alone": ([[A]], [NEWLINE, NEWLINE], [2, 3], [2, 1]),
    "separator inside a title": ([[A, NEWLINE, B]], [A, NEWLINE, B], [2, 3, 4], [2, 3, 1]),
    "a whole entity that ends with a separator": ([[A, NEWLINE], [B]], [A, NEWLINE, X, NEWLINE, B], [2, 3, 1, 2, 1],
                                                  [2, 3, 1, 1, 1]),
    "tokens beyond every table": ([[A]], [10 ** 6, -3, A, 2 ** 40], [2, 3, 4, 5], [2, 1, 1, 1]),
    "a key that would belong to another node": ([[A, B], [A, C], [B]], [A, A + 14], [2, 3], [2, 1]),
    "the end token is never part of a path": ([[A], [A, B]], [A, END, B], [2, 1, 2], [2, 1, 1]),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
    spellings, tokens, grow, literal = CASES[name]
    for rule, expected in (("grow", grow), ("literal", literal)):
        positions = positions_of(spellings, rule)
        assert stepped(positions, tokens) == expected, rule
        assert filled(positions, [[tokens], [tokens, tokens], [[], tokens]]) == \
            [[expected], [expected, expected], [[], expected]], rule


@pytest.mark.parametrize("rule", RULES)
def test_the_second_mask_begins_anew(rule):
    positions = positions_of([[A, B, C], [B, C]], rule)
    state, ids = positions.begin(1), []
    for token in [A, B, START, B, C, START, START, C]:  # the first span is left unfinished, the third is empty
        state = positions.step(state, torch.tensor([token]))
        ids.append(int(state.intra))
    assert ids == [2, 3, 1, 2, 3, 1, 1, 2]
    assert filled(positions, [[[A, B], [B, C], [], [C]]]) == [[[2, 3], [2, 3], [], [2]]]


@pytest.mark.parametrize("rule", RULES)
@given(entities, st.lists(said, max_size=25), st.integers(1, 6))
def test_ids_are_clamped_and_counted(rule, spellings, tokens, limit):
    free = Reference(spellings, rule).ids(tokens)
    expected, over = [min(i, limit) for i in free], sum(i > limit for i in free)
    positions = positions_of(spellings, rule, limit)
    assert stepped(positions, tokens) == expected and positions.clamped == over
    positions.step(positions.step(positions.begin(1), torch.tensor([NEWLINE])), torch.tensor([START]))
    over += limit < 2  # the separator; [START] is never clamped
    heads = batch_of([[tokens]], heads=[2])  # A's two ids are 7
    assert positions.fill(heads).intra[0, 2:].tolist() == [1, *expected]
    assert positions.fill(heads).intra[0, :2].tolist() == [min(7, limit)] * 2
    assert positions.clamped == over + 2 * (over - (limit < 2) + 2 * (limit < 7))


def test_a_sample_of_behaviours_has_the_ids_of_its_segmentation():
    """Builder, pool and automaton together: two lines masked of four."""
    text = behaviours(4, tokens=3)
    spellings = [text.tokens[4 * i:4 * i + 3].tolist() for i in range(4)]
    sample = fill_in(text, np.array([[0, 4], [8, 15]]), "sentence", SPECIALS)
    result = positions_of(spellings, "grow").fill(collate([sample]))
    assert result.intra[0].tolist() == [0, 0, 1, 2, 3, 0, 0, 0, 0, *[1, 2, 3, 4, 1], *[1, 2, 3, 4, 1, 1, 2, 3]]


def test_equal_entities_are_one_path():
    assert pool([[A, B], [A, B], [A]], END).n_items == 2
    assert pool([(A, B), [B]], END).paths(torch.tensor([1]))[0].tolist() == [[A, B, END]]


@given(entities)
def test_the_pool_holds_all_and_nothing_else(spellings):
    trie = pool(spellings, END)
    tokens, _, lengths = trie.paths(torch.arange(1, trie.n_items + 1))
    paths = {tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths.tolist())}
    assert paths == {(*spelling, END) for spelling in spellings} and len(paths) == trie.n_items


def test_the_state_has_any_shape_and_moves_along():
    positions = positions_of([[A, B]], "grow").to("cpu")
    assert positions.begin((2, 3), "cpu").intra.shape == (2, 3) and positions.begin(()).intra.shape == ()
    state = positions.step(positions.begin((1, 3)), torch.tensor([[A, X, NEWLINE]])).gather(torch.tensor([[2, 0]]))
    assert positions.step(state, torch.tensor([[A, B]])).intra.tolist() == [[1, 3]]


@pytest.mark.parametrize("call, message", [
    (lambda: positions_of([[A]], "shrink"), "'shrink' is neither grow nor literal"),
    (lambda: positions_of([[A]], "grow", 0), "limit 0"),
    (lambda: pool([[A], []], END), r"entity \[\]"), (lambda: pool([[A, END]], END), "end token 4"),
    (lambda: pool([], END), "at least one")])
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("spellings", [[[A, END], [B, C]], [[A, END, B, END]]])
def test_a_trie_without_one_terminator_is_refused(spellings):
    with pytest.raises(ValueError, match="must end with the token"):
        EntityPositions(trie_of(spellings), START, NEWLINE, "grow", 9)


def test_texts_without_spans_of_b_are_left_alone():
    sample = fill_in(text_of([A, B]), np.array([[2, 2]]), "entity", SPECIALS)
    batch = collate([sample]).part_a
    assert batch.tokens.size(1) == batch.sep == batch.lengths
    assert torch.equal(positions_of([[A, B]], "grow").fill(batch).intra, batch.intra)
