"""Collaborative ids: items that the same users have share codes (Hua et al. 2023, arXiv:2305.06569, section 4.3).

Two items are linked by the number of users that have both in TRAINING. Spectral clustering of that graph (Ng, Jordan
and Weiss 2002) gives the children of the root, and again within each child until no more than
``collaborative_children`` items are left, which are numbered in a seeded order. The path from the root spells the item.

Decide (the paper leaves them open): a node has as many children as it takes to fill each with that many items, and at
most that many; no child takes more than one and a half times its share, so that paths stay short where k-means finds
one cluster and some outliers; items without a link, in training or within their cluster, share a child of their own.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.clustering import k_means, nearest_with_room
from recbole_genrec.index.codes import hashes, seeded_order, spell
from recbole_genrec.index.material import Material
from recbole_genrec.index.registry import reads


@reads("training")
def build(material: Material) -> ItemIndex:
    """Spell every item by its path. Option: ``collaborative_children``."""
    most, order = material.options["collaborative_children"], seeded_order(material)
    had = _had(material, order)
    seen = int((np.diff(had.tocsc().indptr) > 0).sum())
    paths: list[tuple[int, ...]] = [()] * len(order)
    open_nodes = [(np.arange(len(order)), had, ())]
    while open_nodes:
        places, had, path = open_nodes.pop()
        if len(places) <= most:
            for number, place in enumerate(places):
                paths[order[place] - 1] = (*path, number)
            continue
        # Users with one item in this node link nothing in it, nor further down.
        had = had[np.diff(had.indptr) > 1]
        for number, child in enumerate(children(had, most, material.seed)):
            open_nodes.append((places[child], had[:, child], (*path, number)))
    return spell(material, paths, {"items_not_in_training": len(order) - seen, "longest_path": max(map(len, paths))})


def _had(material: Material, order: np.ndarray) -> csr_matrix:
    """``[users, N]`` who has what in training, items in ``order`` and users in an order that is theirs alone.

    Sums over users depend on their order, if only in the last digit: it must not be that of RecBole's numbering.
    """
    place = np.empty(len(order) + 1, dtype=np.int64)
    place[order] = np.arange(len(order))
    pairs = np.unique(np.stack([material.training.user, place[material.training.item]]), axis=1)
    user = np.unique(pairs[0], return_inverse=True)[1].reshape(-1)
    content = np.zeros(int(user.max()) + 1 if len(user) else 0, dtype=np.uint64)
    np.add.at(content, user, hashes(material)[order - 1][pairs[1]])
    rank = np.empty(len(content), dtype=np.int64)
    rank[content.argsort(kind="stable")] = np.arange(len(content))  # users with equal content are interchangeable
    return csr_matrix((np.ones(len(user)), (rank[user], pairs[1])), shape=(len(content), len(order)))


def children(had: csr_matrix, most: int, seed: int) -> list[np.ndarray]:
    """Parts of more than ``most`` items: between 2 and ``most`` lists of their places, none empty.

    Args:
        had: ``[users, n]`` ones and zeros, no user with fewer than two items.
    """
    linked, alone = (np.flatnonzero(which) for which in (had.getnnz(axis=0) > 0, had.getnnz(axis=0) == 0))
    if not len(linked):
        return np.array_split(alone, min(most, ceil(len(alone) / most)))
    parts = min(ceil(len(linked) / most), most - (len(alone) > 0))
    found = [linked[part] for part in _spectral(had[:, linked], parts, seed)] if parts > 1 else [linked]
    return [*found, alone] if len(alone) else found


def _spectral(had: csr_matrix, count: int, seed: int) -> list[np.ndarray]:
    """At least two of at most ``count`` clusters of the items: places in each.

    With A the users that two items share (an item shares all its users with itself) and D its row sums, the leading
    eigenvectors of D^-1/2 A D^-1/2 are right singular vectors of the users' matrix scaled by D^-1/2: A itself,
    quadratic in the lengths of histories, is never made.
    """
    degree = had.T @ had.getnnz(axis=1).astype(np.float64)
    with threadpool_limits(1):
        _, _, vectors = randomized_svd(had.multiply(degree ** -0.5).tocsr(), min(count, *had.shape), n_iter=7,
                                       random_state=seed)
    vectors = normalize(vectors.T)
    _, centres = k_means(vectors, count, seed)
    if len(centres) < 2:  # they are all alike
        return np.array_split(np.arange(had.shape[1]), count)
    distance = (centres ** 2).sum(axis=1) - 2 * vectors @ centres.T  # squared, but for the vectors' own 1
    label = nearest_with_room(distance.round(12), int(1.5 * len(vectors) / len(centres)))
    return [part for part in (np.flatnonzero(label == number) for number in range(len(centres))) if len(part)]
