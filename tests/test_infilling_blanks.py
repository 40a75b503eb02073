"""Samples: Figure 1 to the number, GLM's own construction where there are no entities, and what holds for all."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infilling_helpers import CLS, END, EOS, GMASK, MASK, SMASK, START, text_of, texts

from recbole_genrec.infilling.blanks import BlankBatch, Specials, collate, fill_in
from recbole_genrec.infilling.masks import LEVELS, MaskRule, draw_spans
from recbole_genrec.infilling.positions import EntityPositions, pool

SPECIALS = Specials(CLS, EOS, START, END, MASK, SMASK, GMASK)
BARE = replace(SPECIALS, cls=None, eos=None)
PARTS = ("tokens", "inter", "intra", "label", "blank")


@st.composite
def samples(draw):
    """(text, spans, level, specials) as training would make them, with empty spans and touching ones among them."""
    text = draw(texts(all_maskable=True))
    specials = Specials(draw(st.sampled_from([None, CLS])), draw(st.sampled_from([None, EOS])), START, END, MASK,
                        SMASK, GMASK)
    level = draw(st.sampled_from(LEVELS))
    if draw(st.booleans()):
        rule = MaskRule(sentence_ends={10, 11}, entity_mask=draw(st.booleans()))
        spans = draw_spans(text, level, rule, np.random.default_rng(draw(st.integers(0, 10 ** 6))))
    else:
        spans = np.empty((0, 2), dtype=np.int64)
    if not len(spans):
        count = draw(st.integers(1, 4))
        cuts = draw(st.lists(st.integers(0, len(text)), min_size=2 * count, max_size=2 * count))
        spans = np.sort(cuts).reshape(-1, 2)
    return text, spans, level, specials


def by_hand(text, spans, level, specials, order=None, entity_positions=True):
    """Rows (token, inter, intra, label, blank) token by token, and the length of A."""
    mask = {"entity": MASK, "sentence": SMASK, "document": GMASK}[level]
    rows, place, spans = [], [], [tuple(span) for span in spans.tolist()]

    def a(token, intra=0, blank=0):
        rows.append((token, len(rows), intra, -100, blank))

    if specials.cls is not None:
        a(specials.cls)
    for column in range(len(text) + 1):
        for number, (begin, _) in enumerate(spans):
            if begin == column:
                place.append(len(rows))
                a(mask, blank=number + 1)
        if column < len(text) and not any(begin <= column < end for begin, end in spans):
            intra = int((text.unit[:column + 1] == text.unit[column]).sum())
            a(int(text.tokens[column]), intra if text.entity[column] and entity_positions else 0)
    if specials.eos is not None:
        a(specials.eos)
    sep = len(rows)
    for number in range(len(spans)) if order is None else order:
        begin, end = spans[number]
        inputs, labels = [START, *text.tokens[begin:end]], [*text.tokens[begin:end], END]
        for k, (token, label) in enumerate(zip(inputs, labels)):
            intra = int(k == 0) if entity_positions else k + 1
            rows.append((int(token), place[number], intra, int(label), number + 1))
    return rows, sep


def rows_of(sample):
    return list(zip(*(getattr(sample, name).tolist() for name in PARTS)))


FIGURE = {
    "tokens": [MASK, 24, MASK, 26, 27, START, 21, 22, 23, START, 25], "inter": [0, 1, 2, 3, 4, 0, 0, 0, 0, 2, 2],
    "intra": [0, 0, 0, 1, 2, 1, 2, 3, 4, 1, 2], "label": [-100] * 5 + [21, 22, 23, END, 25, END],
    "blank": [1, 0, 2, 0, 0, 1, 1, 1, 1, 2, 2]}
WITH_SPECIALS = {
    "tokens": [CLS, *FIGURE["tokens"][:5], EOS, *FIGURE["tokens"][5:]], "inter": [*range(7), 1, 1, 1, 1, 3, 3],
    "intra": [0, *FIGURE["intra"][:5], 0, *FIGURE["intra"][5:]], "label": [-100] * 7 + FIGURE["label"][5:],
    "blank": [0, *FIGURE["blank"][:5], 0, *FIGURE["blank"][5:]]}


@pytest.mark.parametrize("specials, expected, sep", [(BARE, FIGURE, 5), (SPECIALS, WITH_SPECIALS, 7)])
@pytest.mark.parametrize("rule", ["grow", "literal"])
def test_figure_1(specials, expected, sep, rule):
    text = text_of([21, 22, 23], 24, 25, [26, 27])
    sample = fill_in(text, np.array([[0, 3], [4, 5]]), "entity", specials)
    positions = EntityPositions(pool([[21, 22, 23], [26, 27]], END), START, 10, rule, 512)
    filled = positions.fill(collate([sample]))
    for name in PARTS:
        assert getattr(filled, name)[0].tolist() == expected[name], name
    assert sample.sep == sep == int(filled.sep)


@given(samples(), st.booleans(), st.booleans(), st.randoms())
@settings(max_examples=300)
def test_a_sample_is_what_a_loop_over_tokens_makes(sample, entity_positions, shuffled, dice):
    order = None
    if shuffled:
        order = list(range(len(sample[1])))
        dice.shuffle(order)
    made = fill_in(*sample, order=None if order is None else np.array(order), entity_positions=entity_positions)
    rows, sep = by_hand(*sample, order, entity_positions)
    assert rows_of(made) == rows and made.sep == sep
    assert all(getattr(made, name).dtype == np.int64 for name in PARTS)


def glm_blocks(tokens, spans, mask, start, end):
    """GLM's block data without shuffling, from its paper (section 2.1 and 2.2): every span is one piece of 1, 2, ..."""
    inputs, targets, inter, intra, places, last = [], [], [], [], [], 0
    for begin, stop in spans:
        inputs += [*tokens[last:begin], mask]
        places.append(len(inputs) - 1)
        last = stop
    inputs += tokens[last:]
    inter, intra, targets = list(range(len(inputs))), [0] * len(inputs), [None] * len(inputs)
    for place, (begin, stop) in zip(places, spans):
        inputs += [start] + tokens[begin:stop]
        targets += tokens[begin:stop] + [end]
        inter += [place] * (stop - begin + 1)
        intra += range(1, stop - begin + 2)
    return inputs, targets, inter, intra


@given(st.lists(st.integers(10, 20), min_size=2, max_size=60), st.integers(0, 10 ** 6), st.sampled_from(LEVELS))
def test_without_entities_it_is_glms_own(tokens, seed, level):
    """In both ways: told not to know entities, and by the automaton (rule grow) with none of the pool in the text."""
    text = text_of(*tokens)
    spans = draw_spans(text, level, MaskRule(sentence_ends={10}), np.random.default_rng(seed))
    if not len(spans):
        return
    framed = [CLS, *tokens, EOS]
    inputs, targets, inter, intra = glm_blocks(framed, (spans + 1).tolist(), getattr(SPECIALS, level), START, END)
    plain = collate([fill_in(text, spans, level, SPECIALS, entity_positions=False)])
    positions = EntityPositions(pool([[30, 31]], END), START, 10, "grow", 512)
    for batch in (plain, positions.fill(collate([fill_in(text, spans, level, SPECIALS)]))):
        assert batch.tokens[0].tolist() == inputs and batch.inter[0].tolist() == inter
        assert batch.intra[0].tolist() == intra
        assert batch.label[0].tolist() == [-100 if target is None else target for target in targets]


@given(samples())
def test_replacing_each_mask_by_its_span_restores_the_text(sample):
    text, spans, level, specials = sample
    made = fill_in(*sample)
    restored = []
    for column in range(made.sep):
        blank = made.blank[column]
        if blank:
            assert made.tokens[column] == getattr(specials, level)
            answer = made.label[made.sep:][made.blank[made.sep:] == blank]
            assert answer[-1] == END
            restored += answer[:-1].tolist()
        else:
            restored.append(made.tokens[column])
    frame = [token for token in (specials.cls, specials.eos) if token is not None]
    assert restored == [*frame[:specials.cls is not None], *text.tokens, *frame[specials.cls is not None:]]


@given(samples())
def test_what_holds_for_every_sample(sample):
    text, spans, level, specials = sample
    made, m = fill_in(*sample), len(spans)
    a, b = slice(0, made.sep), slice(made.sep, None)
    assert len(made.tokens) == len(text) + 2 * m + (specials.cls is not None) + (specials.eos is not None)
    assert (made.blank[a] > 0).sum() == (made.tokens[b] == START).sum() == (made.label[b] == END).sum() == m
    assert (made.label[a] == -100).all() and (made.label[b] != -100).all()
    assert (made.blank[made.inter[b]] == made.blank[b]).all() and (np.diff(made.inter[b]) >= 0).all()
    starts = made.tokens[b] == START
    assert (made.intra[b][starts] == 1).all() and (made.intra[b][~starts] == 0).all()
    following = made.tokens[b][1:] != START
    assert (made.label[b][:-1][following] == made.tokens[b][1:][following]).all()
    assert (made.label[b][np.append(~following, True)] == END).all()


@given(samples(), st.randoms())
def test_shuffling_permutes_the_spans_of_b_only(sample, dice):
    order = list(range(len(sample[1])))
    dice.shuffle(order)
    straight, shuffled = fill_in(*sample), fill_in(*sample, order=np.array(order))
    sep = straight.sep
    assert rows_of(straight)[:sep] == rows_of(shuffled)[:sep]
    blocks = [[row for row in rows_of(straight)[sep:] if row[4] == number + 1] for number in order]
    assert rows_of(shuffled)[sep:] == list(itertools.chain(*blocks))
    triples = [Counter((row[0], row[1], row[3]) for row in rows_of(part)) for part in (straight, shuffled)]
    assert triples[0] == triples[1]


def test_an_empty_span_is_a_prompt():
    sample = fill_in(text_of(8, [9, 10]), np.array([[3, 3]]), "sentence", SPECIALS)
    assert sample.tokens.tolist() == [CLS, 8, 9, 10, SMASK, EOS, START] and sample.sep == 6
    assert sample.inter.tolist() == [0, 1, 2, 3, 4, 5, 4] and sample.label.tolist() == [-100] * 6 + [END]
    assert sample.blank.tolist() == [0, 0, 0, 0, 1, 0, 1] and sample.intra.tolist() == [0, 0, 1, 2, 0, 0, 1]


def test_a_cut_entity_keeps_the_places_of_what_is_seen():
    sample = fill_in(text_of([11, 12, 13, 14]), np.array([[1, 2]]), "entity", BARE)
    assert sample.intra[:4].tolist() == [1, 0, 3, 4]


@given(st.lists(samples(), min_size=1, max_size=5), st.data())
def test_collating_pads_on_the_right_and_rows_trims(many, data):
    made = [fill_in(*sample) for sample in many]
    batch = collate(made)
    assert batch.lengths.tolist() == [len(sample.tokens) for sample in made]
    assert batch.sep.tolist() == [sample.sep for sample in made]
    assert all(getattr(batch, part.name).dtype == torch.int64 for part in fields(BlankBatch))
    assert batch.tokens.size(1) == int(batch.lengths.max())
    for row, sample in enumerate(made):
        for name in PARTS:
            values = getattr(batch, name)[row]
            assert values[batch.mask[row]].tolist() == getattr(sample, name).tolist()
            assert (values[~batch.mask[row]] == (-100 if name == "label" else 0)).all()
        assert batch.spans[row].nonzero().squeeze(1).tolist() == list(range(sample.sep, len(sample.tokens)))
    index = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=6))
    part, alone = batch.rows(torch.tensor(index)), collate([made[row] for row in index])
    assert all(torch.equal(getattr(part, field.name), getattr(alone, field.name)) for field in fields(BlankBatch))


def test_the_same_seed_epoch_and_row_give_the_same_sample():
    text, rule = text_of(*range(100, 160)), MaskRule()
    drawn = [fill_in(text, draw_spans(text, "entity", rule, np.random.default_rng([1, epoch, 5])), "entity", SPECIALS)
             for epoch in (0, 0, 1)]
    assert rows_of(drawn[0]) == rows_of(drawn[1]) != rows_of(drawn[2])


@pytest.mark.parametrize("spans, message", [
    (np.empty((0, 2), int), r"shape \(0, 2\)"), (np.array([0, 1]), r"shape \(2,\)"),
    ([[2, 1]], "not apart"), ([[0, 2], [1, 3]], "not apart"), ([[2, 3], [0, 1]], "not apart"), ([[-1, 1]], "not apart"),
    ([[3, 5]], "within 4 tokens")])
def test_wrong_spans_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        fill_in(text_of(11, 12, 13, 14), spans, "entity", SPECIALS)


def test_other_mistakes_are_refused():
    text, spans = text_of(11, 12, 13, 14), np.array([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match="'word'"):
        fill_in(text, spans, "word", SPECIALS)
    for order in ([0, 0], [0], [1, 2]):
        with pytest.raises(ValueError, match="not a permutation"):
            fill_in(text, spans, "entity", SPECIALS, order=np.array(order))
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])
