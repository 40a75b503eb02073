"""The array-backed trie against a dictionary of dictionaries."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import trie_of
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_genrec.decoding.trie import Trie

#: Few tokens, one of them large: many shared prefixes, and byte order matters.
WORDS = st.sampled_from([0, 1, 2, 3, 255, 256, 70000])
TERMINATOR = 9


def with_terminator(words: list[int]) -> list[int]:
    return [*words, TERMINATOR]


def with_length(words: list[int]) -> list[int]:
    """Prefix-free without a terminator: the length stands first."""
    return [len(words), *words]


@st.composite
def catalogues(draw) -> tuple[list[list[int]], list[int]]:
    """Different prefix-free sequences and an item id for each, in any order."""
    spell = draw(st.sampled_from([with_terminator, with_length]))
    words = draw(st.lists(st.lists(WORDS, max_size=6), min_size=1, max_size=25, unique_by=tuple))
    ids = draw(st.lists(st.integers(1, 60), min_size=len(words), max_size=len(words), unique=True))
    return [spell(w) for w in words], ids


def nested(sequences, items) -> dict:
    """The trie as dictionaries; an item stands under the key ``"item"`` of its last node."""
    root: dict = {}
    for sequence, item in zip(sequences, items):
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
        node["item"] = item
    return root


def items_below(node: dict) -> set[int]:
    return {node["item"]} if "item" in node else set().union(*map(items_below, node.values()))


def walk(trie: Trie, reference: dict):
    """Pairs of a node number and its dictionary, root first, with the depth."""
    todo = [(0, reference, 0)]
    while todo:
        node, expected, depth = todo.pop()
        yield node, expected, depth
        child, real = trie.children(torch.tensor([node]))
        numbers = child[real].tolist()
        assert len(numbers) == int(trie.first[node + 1] - trie.first[node])
        tokens = trie.token[child[real]].tolist()
        assert tokens == sorted(token for token in expected if token != "item")
        assert all(int(trie.parent[number]) == node for number in numbers)
        todo += [(number, expected[token], depth + 1) for number, token in zip(numbers, tokens)]


@given(catalogues())
@settings(max_examples=80, deadline=None)
def test_the_tree_is_that_of_nested_dictionaries(catalogue):
    sequences, items = catalogue
    trie, seen = trie_of(sequences, items), []
    for node, expected, depth in walk(trie, nested(sequences, items)):
        seen.append(node)
        below = trie.item[int(trie.low[node]):int(trie.high[node])].tolist()
        assert set(below) == items_below(expected) and len(below) == len(items_below(expected))
        assert int(trie.level[depth]) <= node < int(trie.level[depth + 1])
        assert bool(trie.is_leaf(torch.tensor([node]))[0]) == ("item" in expected)
        if "item" in expected:
            assert int(trie.leaf[trie.rank[expected["item"]]]) == node
    assert sorted(seen) == list(range(len(trie)))
    assert trie.level.tolist()[-1] == len(trie) and len(trie.level) == max(map(len, sequences)) + 2


@given(catalogues())
@settings(max_examples=60, deadline=None)
def test_ranks_are_lexicographic_and_have_an_inverse(catalogue):
    sequences, items = catalogue
    trie = trie_of(sequences, items)
    assert trie.n_items == len(items)
    assert trie.item.tolist() == [item for _, item in sorted(zip(sequences, items))]
    assert trie.rank[trie.item].tolist() == list(range(len(items)))
    unknown = sorted(set(range(len(trie.rank))) - set(items))
    assert (trie.rank[unknown] == -1).all()
    # Each item's path, read from its leaf upwards, is its spelling.
    for sequence, item in zip(sequences, items):
        node, spelled = int(trie.leaf[trie.rank[item]]), []
        while node:
            spelled.append(int(trie.token[node]))
            node = int(trie.parent[node])
        assert spelled[::-1] == sequence


@given(catalogues(), st.data())
@settings(max_examples=80, deadline=None)
def test_all_banned_is_that_of_the_items_below(catalogue, data):
    sequences, items = catalogue
    trie = trie_of(sequences, items)
    # Known and unknown ids, ids twice, and padding, in any order.
    rows = data.draw(st.lists(st.lists(st.sampled_from([0, 0, 61, 1000, *items, *items]), min_size=4, max_size=30),
                              min_size=1, max_size=3))
    banned = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for number, row in enumerate(rows):
        banned[number, :len(row)] = torch.tensor(row)
    nodes = torch.arange(len(trie)).expand(len(rows), -1)
    found = trie.all_banned(nodes, trie.sorted_ranks(banned))
    expected = torch.zeros_like(found)
    for node, below, _ in walk(trie, nested(sequences, items)):
        expected[:, node] = torch.tensor([items_below(below) <= set(row) for row in rows])
    assert torch.equal(found, expected)


@given(catalogues())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_input_does_not_matter(catalogue):
    sequences, items = catalogue
    trie, again = trie_of(sequences, items), trie_of(sequences[::-1], items[::-1])
    assert all(torch.equal(getattr(trie, field.name), getattr(again, field.name)) for field in fields(Trie))


@pytest.mark.parametrize("sequences", [
    [[1, 2], [1, 2]],                     # equal
    [[5], [1, 2], [9, 9], [1, 2]],        # equal, not side by side
    [[1, 2], [1, 2, 3]],                  # a prefix of another
    [[1, 2, 3, 4], [7], [1]],
    [[0], [0, 0]],                        # the token 0 is a token
    [[1], []],                            # empty
    [[]],
    [],
])
def test_sequences_that_no_trie_can_tell_apart_are_refused(sequences):
    with pytest.raises(ValueError, match="sequence"):
        trie_of(sequences)


def test_nodes_of_any_shape_have_children():
    trie = trie_of([[1, 4, 9], [1, 5, 9], [1, 6, 9], [2, 9]])
    child, real = trie.children(torch.tensor([[0, 1], [2, int(trie.leaf[0])]]))
    assert child.shape == real.shape == (2, 2, 3)
    assert real.sum(-1).tolist() == [[2, 3], [1, 0]]
    assert child.min() >= 0 and child.max() < len(trie)


def test_moving_keeps_every_array():
    trie = trie_of([[3, 9], [3, 4, 9], [5, 9]])
    moved = trie.to("meta")
    assert {getattr(moved, field.name).device.type for field in fields(Trie)} == {"meta"}
    back = trie.to("cpu")
    for field in fields(Trie):
        array = getattr(back, field.name)
        assert torch.equal(array, getattr(trie, field.name)) and array.dtype == torch.int64


def test_a_large_random_catalogue():
    rng = np.random.default_rng(0)
    sequences = sorted({(*rng.integers(10, 40, rng.integers(1, 8)).tolist(), TERMINATOR) for _ in range(5000)})
    trie = trie_of([list(sequence) for sequence in sequences])
    prefixes = {sequence[:length] for sequence in sequences for length in range(len(sequence) + 1)}
    assert len(trie) == len(prefixes)
    assert trie.item.tolist() == list(range(1, len(sequences) + 1))
    assert torch.equal(trie.high - trie.low > 0, torch.ones(len(trie), dtype=torch.bool))


@settings(deadline=None)
@given(catalogues())
def test_paths_spell_their_items(catalogue):
    sequences, items = catalogue
    trie = trie_of(sequences, items)
    path, length = trie.paths(torch.tensor(items))
    assert length.tolist() == [len(sequence) for sequence in sequences]
    for nodes, count, sequence in zip(path, length.tolist(), sequences):
        assert trie.token[nodes[:count]].tolist() == sequence
        assert not nodes[count:].any()
        assert trie.depth(nodes[:count]).tolist() == list(range(1, count + 1))
