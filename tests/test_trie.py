"""The array-backed trie against what the spellings say."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import trie_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from recbole_genrec.decoding.trie import Trie, ragged

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


def common_prefix(sequences) -> list[int]:
    first, last = min(sequences), max(sequences)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))]


def below(trie: Trie, node: int) -> list[int]:
    return trie.item[int(trie.low[node]):int(trie.high[node])].tolist()


@given(catalogues())
@settings(max_examples=80, deadline=None)
def test_nodes_stand_where_titles_part(catalogue):
    sequences, items = catalogue
    spelling, trie = dict(zip(items, sequences)), trie_of(sequences, items)
    assert below(trie, 0) == [item for _, item in sorted(zip(sequences, items))]
    parents = trie.parent.tolist()
    assert parents[0] == -1 and int(trie.depth[0]) == 0 and parents == sorted(parents)
    for node in range(len(trie)):
        mine = [spelling[item] for item in below(trie, node)]
        children = trie.children(torch.tensor([node])).child.tolist()
        assert all(parents[child] == node for child in children)
        assert bool(trie.is_leaf(torch.tensor(node))) == (not children)
        if node:
            prefix, above = common_prefix(mine), int(trie.depth[parents[node]])
            assert len(prefix) == int(trie.depth[node]) > above
            assert int(trie.token[node]) == prefix[above]
            places = torch.arange(len(prefix))
            assert trie.token_at(torch.full_like(places, node), places).tolist() == prefix
            assert len(children) != 1  # an only child is no choice
            # All that begin so, and no other.
            assert sorted(mine) == sorted(s for s in sequences if s[: len(prefix)] == prefix)
        if children:
            depth = int(trie.depth[node])
            assert trie.token[children].tolist() == sorted({sequence[depth] for sequence in mine})
            assert [item for child in children for item in below(trie, child)] == below(trie, node)
        else:
            item, = below(trie, node)
            assert int(trie.leaf[trie.rank[item]]) == node
    assert len(trie) <= 2 * len(items)


@given(catalogues())
@settings(max_examples=50, deadline=None)
def test_ranks_and_items_are_inverse(catalogue):
    sequences, items = catalogue
    trie = trie_of(sequences, items)
    assert trie.rank[trie.item].tolist() == list(range(trie.n_items)) and trie.n_items == len(items)
    unknown = [item for item in range(len(trie.rank)) if item not in items]
    assert (trie.rank[unknown] == -1).all()


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
    for node in range(len(trie)):
        expected[:, node] = torch.tensor([set(below(trie, node)) <= set(row) for row in rows])
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


@pytest.mark.parametrize("sequences, items, said", [
    ([[1], [2]], [3, 3], "item id of its own"), ([[1], [2]], [0, 1], "from 1"), ([[1], [2]], [-1, 1], "from 1"),
    ([[1], [2]], [1, 2, 3], "for each item"), ([[2**31 + 5], [2]], [1, 2], "token ids"),
    ([[-1], [2]], [1, 2], "token ids"),
])
def test_ids_that_cannot_be_are_refused(sequences, items, said):
    with pytest.raises(ValueError, match=said):
        trie_of(sequences, items)


def test_children_stand_side_by_side():
    trie = trie_of([[1, 4, 9], [1, 5, 9], [1, 6, 9], [2, 9]])
    fan = trie.children(torch.tensor([1, 2, 0, 1]))
    assert fan.count.tolist() == [3, 0, 2, 3]
    assert fan.row.tolist() == [0, 0, 0, 2, 2, 3, 3, 3]
    assert trie.token[fan.child].tolist() == [4, 5, 6, 1, 2, 4, 5, 6]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any), st.integers(0, 1000))
@settings(deadline=None)
def test_softmax_over_the_children_of_each(counts, seed):
    scores = torch.randn(sum(counts), generator=torch.Generator().manual_seed(seed)) * 50
    scores.requires_grad_()
    fan = ragged(torch.zeros(len(counts), dtype=torch.int64), torch.tensor(counts))
    expected = torch.cat([part.log_softmax(0) for part in scores.split(counts)])
    found = fan.log_softmax(scores)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(len(scores), generator=torch.Generator().manual_seed(seed + 1))
    gradients = [torch.autograd.grad((values * weight).sum(), scores)[0] for values in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_moving_and_saving_keep_every_array(tmp_path):
    trie = trie_of([[3, 9], [3, 4, 9], [5, 9]])
    trie.save(tmp_path / "trie.safetensors")
    moved, loaded = trie.to("meta"), Trie.load(tmp_path / "trie.safetensors")
    assert {getattr(moved, field.name).device.type for field in fields(Trie)} == {"meta"}
    for field in fields(Trie):
        array = getattr(loaded, field.name)
        assert torch.equal(array, getattr(trie, field.name)) and array.dtype == torch.int32
    assert trie.nbytes == sum(getattr(trie, field.name).numel() * 4 for field in fields(Trie))


def test_a_file_that_is_no_trie_runs_no_code(tmp_path):
    (tmp_path / "trie.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(SafetensorError):
        Trie.load(tmp_path / "trie.safetensors")


def test_a_large_random_catalogue():
    rng = np.random.default_rng(0)
    sequences = sorted({(*rng.integers(10, 40, rng.integers(1, 8)).tolist(), TERMINATOR) for _ in range(5000)})
    trie = trie_of([list(sequence) for sequence in sequences])
    assert trie.item.tolist() == list(range(1, len(sequences) + 1))
    prefixes = {sequence[:length] for sequence in sequences for length in range(len(sequence) + 1)}
    following: dict[tuple, set] = {}
    for prefix in prefixes - {()}:
        following.setdefault(prefix[:-1], set()).add(prefix)
    forks = sum(len(children) > 1 for prefix, children in following.items() if prefix)
    assert len(trie) == 1 + forks + len(sequences)


@settings(deadline=None)
@given(catalogues())
def test_paths_spell_their_items_and_say_what_was_chosen(catalogue):
    sequences, items = catalogue
    trie = trie_of(sequences, items)
    tokens, node, length = trie.paths(torch.tensor(items))
    assert length.tolist() == [len(sequence) for sequence in sequences]
    for row, nodes, sequence in zip(tokens.tolist(), node.tolist(), sequences):
        assert row[: len(sequence)] == sequence and not any(row[len(sequence):])
        for place in range(len(row)):
            alternatives = {other[place] for other in sequences
                            if other[:place] == sequence[:place] and len(other) > place}
            if place < len(sequence) and (len(alternatives) > 1 or place == 0):
                assert int(trie.token[nodes[place]]) == sequence[place]
                assert int(trie.depth[trie.parent[nodes[place]]]) == place
            else:
                assert nodes[place] == 0
