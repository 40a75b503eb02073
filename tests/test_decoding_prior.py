"""What a prior over items adds to each search."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_prompts, random_spellings, start, tiny_model, trie_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import same

from recbole_genrec.decoding.beam import beam_search
from recbole_genrec.decoding.best_first import best_first
from recbole_genrec.decoding.exact import exact_top_k, score_catalogue, score_items
from recbole_genrec.decoding.prior import branch_log_probs


@pytest.mark.parametrize("seed", range(4))
def test_a_prior_is_added_to_each_item_and_every_search_knows(seed):
    spellings = random_spellings(40, seed)
    trie, model, prompts = trie_of(spellings), tiny_model("llama"), random_prompts(5, seed)
    logits = 3 * torch.randn(5, len(trie.rank), generator=torch.Generator().manual_seed(seed))

    def started():
        state = start(model, prompts)
        state.prior = branch_log_probs(logits, trie)
        return state

    items = trie.item.long()
    words = score_catalogue(start(model, prompts), trie, "trie")[:, items]
    same(score_catalogue(started(), trie, "trie")[:, items], words + logits[:, items].log_softmax(1), 1e-3)
    whole = exact_top_k(started(), trie, 10, "trie")
    for found in (best_first(started(), trie, 10), beam_search(started(), trie, 10, 40, "trie")):
        assert found.exact.all() and torch.equal(found.items, whole.items)
        same(found.scores, whole.scores)
    same(score_items(started(), trie, whole.items, "trie"), whole.scores)
    banned = whole.items[:, :3]
    left = exact_top_k(started(), trie, 5, "trie", banned)
    assert torch.equal(best_first(started(), trie, 5, "trie", banned).items, left.items)


def test_a_prior_that_knows_nothing_changes_no_list():
    trie, model, prompts = trie_of(random_spellings(30)), tiny_model("llama"), random_prompts(3)
    plain, state = best_first(start(model, prompts), trie, 10), start(model, prompts)
    state.prior = branch_log_probs(torch.zeros(3, len(trie.rank)), trie)
    found = best_first(state, trie, 10)
    assert torch.equal(found.items, plain.items)
    same(found.scores, plain.scores - math.log(30))


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_shares_of_branches_are_sums_over_items_and_never_above_one(count, seed):
    trie = trie_of(random_spellings(count, seed, vocab=40))
    logits = 4 * torch.randn(2, len(trie.rank), generator=torch.Generator().manual_seed(seed))
    steps, items = branch_log_probs(logits, trie), logits[:, trie.item.long()].double().log_softmax(1)
    assert (steps <= 0).all() and (steps[:, 0] == 0).all()
    for node in range(1, len(trie)):
        mine, parents = ((int(trie.low[n]), int(trie.high[n])) for n in (node, int(trie.parent[node])))
        expected = items[:, slice(*mine)].logsumexp(1) - items[:, slice(*parents)].logsumexp(1)
        same(steps[:, node], expected.float())
