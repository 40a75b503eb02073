"""k-means, the same on every call: seeded, one thread, as many clusters as there are different points."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits


def k_means(vectors: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``count`` clusters of ``[n, d]`` vectors: ``[n]`` int64 labels and ``[c, d]`` centres."""
    count = min(count, len(np.unique(vectors.round(9), axis=0)))
    if count < 2:
        return np.zeros(len(vectors), dtype=np.int64), vectors.mean(axis=0, keepdims=True)
    with threadpool_limits(1):  # sums of several threads are added up in no fixed order
        found = KMeans(count, n_init=1, random_state=seed).fit(vectors)
    return found.labels_.astype(np.int64), found.cluster_centers_


def nearest_with_room(distance: np.ndarray, room: int) -> np.ndarray:
    """``[n]`` int64 nearest of ``c`` centres by ``[n, c]`` distances, where none takes more than ``room``.

    A full centre keeps its nearest; the others go to the next that has room.
    """
    distance, left = distance.copy(), np.full(distance.shape[1], room)
    label = np.full(len(distance), -1)
    while len(free := np.flatnonzero(label < 0)):
        choice = distance[free].argmin(axis=1)
        for centre in np.unique(choice):
            wanting = free[choice == centre]
            taken = wanting[distance[wanting, centre].argsort(kind="stable")[:left[centre]]]
            label[taken] = centre
            left[centre] -= len(taken)
        distance[:, left == 0] = np.inf
    return label
