"""The largest and the most repetitive real catalogues through the title index: every item can still be reached."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from converter_helpers import SHARED

from dataset_converters.titles import clean_title, natural_order
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.index import Material, build_index


def films(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return {row["movieId"]: row["title"] for row in csv.DictReader(file)}


def businesses(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return dict(line.rstrip("\n").split("\t") for line in file)


@pytest.mark.parametrize("name, read, items, sharing", [
    ("ml-latest-catalogue/movies.csv.gz", films, 58_098, 156), ("yelp/item_titles.tsv.gz", businesses, 20_033, 6_127),
])
def test_every_item_is_reached_by_its_own_spelling_and_by_no_other(name, read, items, sharing):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs {name} under $GENREC_SHARED/datasets")
    titles = read(path)
    assert len(titles) == items  # as upstream, before cleaning makes a few more equal
    assert sum(count for count in Counter(titles.values()).values() if count > 1) == sharing
    titles = {item: natural_order(clean_title(title)) for item, title in titles.items()}
    catalogue = Catalogue(["", *titles.values()], ["[PAD]", *titles], 0)
    index = build_index("title", Material(catalogue, train_tokenizer([*titles.values(), "\n"], 6000)))
    trie = index.trie

    assert index.report["items_sharing_title"] >= sharing and trie.n_items == items
    everything = torch.arange(1, items + 1)
    node = torch.zeros_like(everything)
    offsets, alive = index.offsets[1:-1], torch.ones_like(everything, dtype=torch.bool)
    for depth in range(int(index.lengths.max())):  # from the root along each spelling, all items at once
        alive = depth < index.lengths[1:]
        token = index.tokens[(offsets + depth).clamp(max=len(index.tokens) - 1)]
        node = torch.where(alive & (trie.depth[node] == depth), child(trie, node, token), node)
        assert (node[alive] > 0).all() and torch.equal(trie.token_at(node[alive], depth), token[alive])
    assert trie.is_leaf(node).all() and (trie.high[node] - trie.low[node] == 1).all()
    assert torch.equal(trie.item[trie.low[node].long()].long(), everything)
    assert len(np.unique(node.numpy())) == items


def child(trie, nodes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The child of each node by its token, 0 if it has none: children are sorted by token."""
    low, high = trie.first[nodes].long(), trie.first[nodes + 1].long()
    found = torch.zeros_like(nodes)
    for _ in range(int((high - low).max()).bit_length() + 1):  # bisection
        middle = (low + high) // 2
        inside = low < high
        value = trie.token[middle.clamp(max=len(trie.token) - 1)].long()
        found = torch.where(inside & (value == tokens), middle, found)
        low = torch.where(inside & (value < tokens), middle + 1, low)
        high = torch.where(inside & (value > tokens), middle, torch.where(inside & (value == tokens), low, high))
    return found
