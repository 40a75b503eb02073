"""The evaluation step: ties, blanks and NaN never make a hit, and everything else is left as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import config_of, random_interactions, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.evaluator import Collector, Evaluator

from recbole_genrec.benchmark import rank_metrics
from recbole_genrec.evaluation.ranking import mask_items, settle, target_rank

INF = float("inf")
ULP = float(np.nextafter(np.float32(1), np.float32(2)))
#: Few different values, so that ties abound; neighbouring float32 numbers and the ends of the range among them.
VALUES = [-INF, -1e30, -1.0, -1e-45, 0.0, 1e-45, 1.0, ULP, 2.0, 1e30]


@st.composite
def scored(draw, values=st.sampled_from(VALUES), most_items: int = 12):
    """Scores as RecBole hands them over (column 0 blank) and a target for each row."""
    rows, items = draw(st.integers(1, 4)), draw(st.integers(1, most_items))
    scores = [[-INF, *draw(st.lists(values, min_size=items, max_size=items))] for _ in range(rows)]
    target = draw(st.lists(st.integers(1, items), min_size=rows, max_size=rows))
    return torch.tensor(scores), torch.tensor(target)


def place_of(row: list[float], target: int) -> int | None:
    """By definition: behind every item that scores at least as much; None if the target has no score."""
    if row[target] == -INF:
        return None
    return 1 + sum(score >= row[target] for item, score in enumerate(row) if item not in (0, target))


@settings(max_examples=300, deadline=None)
@given(scored() | scored(st.floats(-2.0**100, 2.0**100, width=32)))
def test_place_in_topk_is_the_definition(case):
    """For every k: the target is among RecBole's top k exactly if its place is at most k."""
    scores, target = case
    settled = settle(scores.clone(), target)
    ranks = target_rank(settled, target)
    for row, before, goal, rank in zip(settled, scores.tolist(), target.tolist(), ranks.tolist()):
        place = place_of(before, goal)
        assert rank == (place or 0)
        for k in range(1, len(before)):
            hit = goal in row.topk(k).indices.tolist()
            if place is not None:
                assert hit == (place <= k)
            else:  # only reached when nothing else is left to list
                assert not hit or k == len(before) - 1


@settings(max_examples=200, deadline=None)
@given(scored() | scored(st.floats(-2.0**100, 2.0**100, width=32)))
def test_other_items_keep_their_order_and_the_input_its_values(case):
    scores, target = case
    given_scores = scores.clone()
    settled = settle(scores, target)
    assert torch.equal(scores, given_scores)
    for before, after, goal in zip(scores, settled, target.tolist()):
        others = [item for item in range(len(before)) if item != goal]
        for a in others:
            for b in others:
                assert (before[a] < before[b]) == (after[a] < after[b])


def test_constant_scores_are_no_hit():
    """RecBole's topk alone would hand the low ids to everybody."""
    users, items = 40, 100
    target = torch.randint(1, items, (users,), generator=torch.Generator().manual_seed(0))
    for value in (0.0, 7.5, -1e30):
        scores = torch.full((users, items), value)
        scores[:, 0] = -INF
        assert target_rank(settle(scores, target), target).tolist() == [items - 1] * users


def test_five_wrong_items_and_nothing_else_are_no_hit():
    scores = torch.full((3, 50), -INF)
    scores[:, 10:15] = torch.arange(5.0)
    target = torch.tensor([1, 2, 49])
    settled = settle(scores, target)
    assert target_rank(settled, target).tolist() == [0, 0, 0]
    best = settled.topk(20).indices
    assert not (best == target.unsqueeze(1)).any()
    assert best[:, :5].tolist() == [[14, 13, 12, 11, 10]] * 3


@pytest.mark.parametrize("bad", [float("nan"), INF])
@pytest.mark.parametrize("item", [1, 3])
def test_nan_and_infinite_scores_are_refused(bad, item):
    scores = torch.zeros(2, 5)
    scores[1, item] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        settle(scores, torch.tensor([3, 3]))


def test_half_precision_scores_are_settled_without_new_ties():
    scores = torch.tensor([[-INF, 1.0, 1.0, 0.99, 2.0]])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        target = torch.tensor([1])
        settled = settle(scores.to(dtype), target)
        assert target_rank(settled, target).tolist() == [3]
        assert settled.topk(4).indices.tolist() == [[4, 2, 1, 3]]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_masked_items_lose_their_score_and_no_other_does(data):
    items = data.draw(st.integers(2, 12))
    histories = data.draw(st.lists(st.lists(st.integers(1, items - 1), max_size=5), min_size=1, max_size=4))
    width = max(map(len, histories))
    padded = torch.tensor([history + [0] * (width - len(history)) for history in histories]).view(len(histories), width)
    scores = torch.randn(len(histories), items)
    masked = mask_items(scores, padded.long())
    for row, before, history in zip(masked, scores, histories):
        for item in range(1, items):
            assert row[item] == (-INF if item in history else before[item])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_recboles_evaluator_agrees_with_the_ranks(tiny_config, seed, levels):
    """RecBole's own Collector and Evaluator on settled scores: hit and ndcg are those of ``target_rank``."""
    users, items, topk = 30, 40, tiny_config["topk"]
    dice = np.random.default_rng(seed)
    scores = torch.tensor(dice.integers(0, levels, (users, items)), dtype=torch.float32)
    scores[torch.tensor(dice.random((users, items)) < 0.3)] = -INF
    scores[:, 0] = -INF
    target = torch.tensor(dice.integers(1, items, users))
    settled = settle(scores, target)

    collector = Collector(tiny_config)
    for part in torch.arange(users).split(11):  # batches, as the trainer does it
        collector.eval_batch_collect(settled[part], None, torch.arange(len(part)), target[part])
    theirs = Evaluator(tiny_config).evaluate(collector.get_data_struct())

    rank = target_rank(settled, target).numpy().astype(float)
    ours = rank_metrics(pd.Series(np.where(rank == 0, np.nan, rank)), topk)
    assert dict(theirs) == pytest.approx(ours, abs=1e-9)


@pytest.fixture(scope="module")
def tiny_config(tmp_path_factory):
    return config_of(write_dataset(tmp_path_factory.mktemp("data"), random_interactions(users=5)))


def test_no_user_at_all_has_no_metrics():
    assert rank_metrics(pd.Series([], dtype=float), [5]) == {"hit@5": None, "ndcg@5": None}
