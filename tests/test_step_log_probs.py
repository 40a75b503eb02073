"""The loss along a path of the trie."""

from __future__ import annotations

import torch
from conftest import random_spellings, trie_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from recbole_genrec.decoding.exact import step_log_probs


def path_of(trie, rank: int) -> list[int]:
    """Nodes from below the root to the leaf of a rank."""
    nodes, node = [], int(trie.leaf[rank])
    while node:
        nodes.append(node)
        node = int(trie.parent[node])
    return nodes[::-1]


@given(st.integers(1, 40), st.integers(0, 1000), st.sampled_from([0.0, 0.1]))
@settings(max_examples=40, deadline=None)
def test_along_the_path_it_is_the_cross_entropy_over_all_items(count, seed, smoothing):
    spellings = random_spellings(count, seed, vocab=40)
    trie = trie_of(spellings)
    table = torch.randn(len(trie), 40, generator=torch.Generator().manual_seed(seed)) * 3  # logits after each node
    losses = []
    for rank in range(count):
        path = torch.tensor(path_of(trie, rank))
        losses.append(-step_log_probs(table[trie.parent[path]], path, trie, smoothing).sum())
    losses = torch.stack(losses)

    # Brute force on the spellings: a word's probability among the words that any title has there.
    at = {tuple(spellings[int(trie.item[int(trie.low[node])]) - 1][:int(trie.depth[node])]): node
          for node in range(len(trie))}  # the prefix that a node stands for
    expected = torch.zeros(count)
    for rank in range(count):
        spelling = spellings[int(trie.item[rank]) - 1]
        for n, token in enumerate(spelling):
            prefix = spelling[:n]
            siblings = sorted({other[n] for other in spellings if other[:n] == prefix and len(other) > n})
            if len(siblings) > 1:
                taken = torch.tensor(siblings.index(token))
                expected[rank] += cross_entropy(table[at[tuple(prefix)]][siblings], taken, label_smoothing=smoothing)
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    if smoothing == 0:
        torch.testing.assert_close(torch.exp(-losses).sum(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_its_gradient_is_that_of_the_softmax_over_the_children():
    trie = trie_of(random_spellings(30, 1, vocab=40))
    node = torch.tensor(path_of(trie, 4) + path_of(trie, 17))
    logits = torch.randn(len(node), 40, requires_grad=True)
    (-step_log_probs(logits, node, trie)).sum().backward()
    expected = torch.zeros_like(logits)
    for row, taken in enumerate(node.tolist()):
        parent = trie.parent[taken]
        children = torch.arange(int(trie.first[parent]), int(trie.first[parent + 1]))
        expected[row, trie.token[children]] = logits.detach()[row, trie.token[children]].softmax(0)
        expected[row, trie.token[taken]] -= 1
    torch.testing.assert_close(logits.grad, expected)


def test_it_bears_huge_logits():
    trie = trie_of([[10, 2], [11, 2]])
    logits = torch.tensor([[0.0] * 10 + [1e4, -1e4], [0.0] * 10 + [1e4, -1e4]])
    losses = -step_log_probs(logits, torch.tensor([1, 2]), trie)
    assert losses.tolist() == [0.0, 2e4]
