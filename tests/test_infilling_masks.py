"""Masks: what no draw may ever do, and that draws are distributed as the rule says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infilling_helpers import NEWLINE, behaviours, text_of, texts

from recbole_genrec.infilling.masks import LEVELS, MaskRule, draw_level, draw_spans

RULE = MaskRule(sentence_ends={NEWLINE, 11})
seeds = st.integers(0, 10 ** 6)


def units_of(text) -> list[tuple[int, int, bool]]:
    """(begin, end, maskable) of every unit, by hand."""
    units = []
    for column, unit in enumerate(text.unit):
        if column and unit == text.unit[column - 1]:
            units[-1] = (units[-1][0], column + 1, units[-1][2])
        else:
            units.append((column, column + 1, bool(text.maskable[column])))
    return units


def sentences_of(text) -> list[tuple[int, int]]:
    """Sentences by hand."""
    sentences, begin = [], 0
    for column, token in enumerate(text.tokens):
        if token in (NEWLINE, 11) and not text.entity[column] or column == len(text) - 1:
            sentences.append((begin, column + 1))
            begin = column + 1
    return sentences


def check(text, spans):
    """What holds at every level for any text."""
    assert spans.dtype == np.int64 and spans.ndim == 2 and spans.shape[1] == 2
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] > spans[:-1, 1]).all(), "spans touch"
    assert (spans[:, 1] - spans[:, 0]).sum() < len(text), "nothing is left"
    for begin, end in spans:
        assert begin >= 0 and text.maskable[begin:end].all()


@given(texts(), st.sampled_from(LEVELS), seeds)
@settings(max_examples=400)
def test_no_span_touches_another_cuts_an_entity_or_takes_all(text, level, seed):
    spans = draw_spans(text, level, RULE, np.random.default_rng(seed))
    check(text, spans)
    begins = {begin for begin, _, _ in units_of(text)} | {len(text)}
    assert set(spans.ravel()) <= begins
    assert np.array_equal(spans, draw_spans(text, level, RULE, np.random.default_rng(seed)))


@pytest.mark.parametrize("level", ["entity", "sentence"])
def test_spans_are_kept_apart_where_they_are_many(level):
    text = text_of(*[[100, 101] if i % 4 == 0 else NEWLINE if i % 4 == 1 else 102 + i for i in range(120)])
    for seed in range(100):
        spans = draw_spans(text, level, MaskRule(ratio=.45, sentence_ends={NEWLINE}), np.random.default_rng(seed))
        check(text, spans)
        assert len(spans) > 5


@given(texts(), st.sampled_from(LEVELS), seeds)
def test_entities_may_be_cut_if_they_are_not_known(text, level, seed):
    check(text, draw_spans(text, level, MaskRule(entity_mask=False, sentence_ends={NEWLINE}),
                           np.random.default_rng(seed)))


@pytest.mark.parametrize("level", LEVELS)
def test_entity_mask_false_does_cut_entities(level):
    text, rule = behaviours(6), MaskRule(entity_mask=False, sentence_ends={103, 125})
    begins = {begin for begin, _, _ in units_of(text)} | {len(text)}
    cut = [not set(draw_spans(text, level, rule, np.random.default_rng(seed)).ravel()) <= begins for seed in range(9)]
    assert any(cut)


@given(texts(), seeds, st.sampled_from([.05, .15, .4]))
@settings(max_examples=300)
def test_entity_level_meets_its_budget(text, seed, ratio):
    rule = MaskRule(ratio=ratio, longest_draw=6)
    spans = draw_spans(text, "entity", rule, np.random.default_rng(seed))
    check(text, spans)
    units = units_of(text)
    budget = max(1, math.floor(ratio * text.maskable.sum() + 1e-9))
    sizes = spans[:, 1] - spans[:, 0]
    longest = max(end - begin for begin, end, _ in units)
    assert not len(sizes) or (sizes < 6 + longest).all() and sizes.sum() < budget + 6 + longest
    if sizes.sum() < budget:  # then only because no unit is left that could be masked alone
        covered = np.zeros(len(text) + 2, dtype=bool)
        for begin, end in spans:
            covered[begin + 1:end + 1] = True
        for begin, end, maskable in units:
            free = maskable and not covered[begin:end + 2].any() and end - begin < len(text)
            assert not free


@given(texts(), seeds)
@settings(max_examples=300)
def test_sentence_level_takes_whole_sentences(text, seed):
    spans = draw_spans(text, "sentence", RULE, np.random.default_rng(seed))
    sentences, taken = sentences_of(text), {tuple(span) for span in spans.tolist()}
    assert taken <= set(sentences)
    wanted = .15 * text.maskable.sum() - 1e-9
    masked = sum(end - begin for begin, end in taken)
    if taken:  # without any one of the last drawn the wanted number was not reached
        assert masked - max(end - begin for begin, end in taken) < wanted
    if masked < wanted and len(sentences) > 1:
        edges = set(spans.ravel())
        for begin, end in sentences:
            assert (begin, end) in taken or begin in edges or end in edges or not text.maskable[begin:end].all()


@given(texts(all_maskable=True), seeds)
@settings(max_examples=400)
def test_document_level_takes_half_or_more(text, seed):
    spans, n = draw_spans(text, "document", RULE, np.random.default_rng(seed)), len(text)
    if len(units_of(text)) == 1:
        assert len(spans) == 0
    else:
        (begin, end), = spans
        assert n / 2 <= end - begin < n


def test_document_level_stays_in_the_longest_maskable_stretch():
    text = text_of(*range(50), maskable=[False] * 5 + [True] * 10 + [False] + [True] * 30 + [False] * 4)
    for seed in range(50):
        (begin, end), = draw_spans(text, "document", RULE, np.random.default_rng(seed))
        assert 16 <= begin and end <= 46 and 15 <= end - begin < 30


def test_document_lengths_are_uniform_and_half_stand_at_the_end():
    text, rng = text_of(*range(100, 140)), np.random.default_rng(0)
    spans = np.concatenate([draw_spans(text, "document", RULE, rng) for _ in range(8000)])
    lengths = np.bincount(spans[:, 1] - spans[:, 0], minlength=41)
    assert lengths[:20].sum() == 0 and lengths[40] == 0
    expected = 8000 / 20
    assert ((lengths[20:40] - expected) ** 2 / expected).sum() < 45  # chi-square, 19 degrees: p = .0007
    # By chance a span of l tokens ends at the end in one of 41 - l places.
    by_chance = np.mean([1 / (41 - length) for length in range(20, 40)])
    assert abs((spans[:, 1] == 40).mean() - (.5 + .5 * by_chance)) < .03
    anywhere = spans[spans[:, 1] < 40]
    assert {begin for begin, end in anywhere if end - begin == 20} == set(range(20))


def test_document_spans_are_rounded_up_to_whole_units():
    text = text_of(*[list(range(10 * i, 10 * i + 10)) for i in range(1, 5)])
    lengths = {int(end - begin) for seed in range(60)
               for begin, end in draw_spans(text, "document", RULE, np.random.default_rng(seed))}
    assert lengths == {20, 30}  # 20 only for a length of just 20; above 30 the whole text is not allowed
    few = [int(end - begin) for seed in range(400)
           for begin, end in draw_spans(text, "document", RULE, np.random.default_rng(seed))]
    assert few.count(20) / 400 < .1


def test_an_uneven_pair_leaves_the_smaller_unit():
    for text, expected in ((text_of([1] * 12, [2] * 8), [0, 12]), (text_of([1] * 8, [2] * 12), [8, 20])):
        for seed in range(20):
            assert draw_spans(text, "document", RULE, np.random.default_rng(seed)).tolist() == [expected]


def test_span_lengths_are_poisson():
    text, rule, rng = text_of(*range(100, 4100)), MaskRule(), np.random.default_rng(0)
    lengths = np.concatenate([np.diff(draw_spans(text, "entity", rule, rng)[:-1]).ravel() for _ in range(60)])
    share = np.bincount(np.minimum(lengths, 10), minlength=11)[1:] / len(lengths)
    weight = np.array([3 ** k / math.factorial(k) for k in range(1, 40)])
    expected = np.append(weight[:9], weight[9:].sum()) / weight.sum()
    assert abs(share - expected).max() < .01 and len(lengths) > 9000
    assert lengths.max() < 20


def test_longest_draw_and_mean_length_are_heeded():
    text, rng = text_of(*range(100, 1100)), np.random.default_rng(0)
    lengths = np.diff(draw_spans(text, "entity", MaskRule(mean_length=50, longest_draw=4), rng)).ravel()
    assert lengths[:-1].max() == 4 and lengths.mean() > 3.5
    lengths = np.diff(draw_spans(text, "entity", MaskRule(mean_length=.01), rng)).ravel()
    assert (lengths == 1).mean() > .9


def test_places_are_uniform_and_bias_prefers_entities():
    parts = [part for i in range(40) for part in ([100 + i], 200 + i)]  # entities of one token: only the bias matters
    text, counts = text_of(*parts), np.zeros(80)
    for seed in range(3000):
        begin = draw_spans(text, "entity", MaskRule(ratio=.01, mean_length=.001), np.random.default_rng(seed))[:, 0]
        counts[begin] += 1
    assert ((counts - 37.5) ** 2 / 37.5).sum() < 125  # chi-square, 79 degrees: p = .0007
    biased = MaskRule(ratio=.01, mean_length=.001, entity_bias=4.0)
    begin = [draw_spans(text, "entity", biased, np.random.default_rng(seed))[0, 0] for seed in range(2000)]
    assert abs(text.entity[begin].mean() - .8) < .03


def test_levels_are_drawn_with_their_probabilities():
    rng = np.random.default_rng(0)
    drawn = [draw_level(MaskRule(), rng) for _ in range(6000)]
    for level, share in (("entity", .5), ("sentence", .3), ("document", .2)):
        assert abs(drawn.count(level) / 6000 - share) < .02
    assert {draw_level(MaskRule(levels={"sentence": 1.0}), rng) for _ in range(50)} == {"sentence"}


def test_a_title_with_a_full_stop_is_no_end_of_a_sentence():
    text = text_of([100, NEWLINE, 101], NEWLINE, [102], NEWLINE, 103, 104, NEWLINE, 105)
    drawn = {tuple(span) for seed in range(40)
             for span in draw_spans(text, "sentence", RULE, np.random.default_rng(seed)).tolist()}
    assert drawn == {(0, 4), (4, 6), (6, 9), (9, 10)}


def test_tokens_beyond_the_table_of_sentence_ends_are_plain():
    text = text_of(10 ** 6, 12, NEWLINE, 10 ** 6, 10 ** 6)
    assert {tuple(span) for seed in range(9)
            for span in draw_spans(text, "sentence", RULE, np.random.default_rng(seed)).tolist()} == {(0, 3), (3, 5)}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("text", [text_of([100, 101, 102]), text_of(100), text_of([]),
                                  text_of(100, 101, 102, maskable=[False] * 3)])
def test_nothing_is_drawn_where_nothing_may_be_masked(text, level):
    assert draw_spans(text, level, RULE, np.random.default_rng(0)).shape == (0, 2)


def test_one_sentence_is_not_masked_at_sentence_level():
    assert draw_spans(text_of(100, 101, NEWLINE), "sentence", RULE, np.random.default_rng(0)).shape == (0, 2)


@pytest.mark.parametrize("wrong, message", [
    ({"levels": {"entity": .5, "word": .5}}, "'word'"), ({"levels": {"entity": .5}}, "add up to 1"),
    ({"levels": {"entity": 1.5, "sentence": -.5}}, "-0.5"), ({"ratio": 0}, "ratio 0"), ({"ratio": 1.5}, "ratio 1.5"),
    ({"ratio": math.nan}, "ratio nan"), ({"mean_length": 0}, "mean_length 0"), ({"longest_draw": 0}, "longest_draw 0"),
    ({"longest_draw": 2.5}, "longest_draw 2.5"), ({"entity_bias": 0}, "entity_bias 0"),
    ({"sentence_ends": {-1, 3}}, "-1")])
def test_wrong_rules_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaskRule(**wrong)


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="'word'"):
        draw_spans(text_of(100, 101), "word", RULE, np.random.default_rng(0))
