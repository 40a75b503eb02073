"""How a model's lists lean towards popular items: RecBole's metrics of lists, on every user's list of a run.

RecBole computes them while it evaluates, if they are among ``metrics``; then they depend on the model, because a model
that narrows the training samples narrows what RecBole counts as popular, and its padding item counts as an item. Here
popularity is the number of an item's training interactions, and coverage is of the items that there are.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import torch
from recbole.evaluator.metrics import AveragePopularity, GiniIndex, ItemCoverage, TailPercentage

from recbole_genrec.index.material import Interactions
from recbole_genrec.records import LIST_METRICS


def training_counts(part) -> np.ndarray:
    """``[n_items]`` how often each item occurs in the training part (a user's first item included), 0: never."""
    return np.bincount(Interactions.of_training(part).item, minlength=part.item_num)


def list_metrics(config, lists: Sequence[Sequence[int]], counts: np.ndarray) -> dict[str, Any]:
    """``itemcoverage@k``, ``giniindex@k``, ``averagepopularity@k`` and ``tailpercentage@k`` of users' lists.

    Args:
        config: the run's (``topk``, ``metric_decimal_place``, ``tail_ratio``).
        lists: item ids of each user, best first.
        counts: as :func:`training_counts` gives them.
    Returns:
        by name; None at a k that some list does not reach (a free decoder found fewer items).
    """
    longest = min(map(len, lists), default=0)
    topk = [k for k in config["topk"] if k <= longest]
    result = {f"{name}@{k}": None for name in LIST_METRICS for k in config["topk"]}
    if not topk:
        return result
    matrix = np.array([row[:max(topk)] for row in lists])
    facts = {"rec.items": torch.from_numpy(matrix), "data.num_items": len(counts) - 1}
    occurring = {int(item): int(counts[item]) for item in np.flatnonzero(counts)}
    coverage, gini, popularity, tail = (metric(config) for metric in (ItemCoverage, GiniIndex, AveragePopularity,
                                                                      TailPercentage))
    for metric in (coverage, gini, popularity, tail):
        metric.topk = topk
    # RecBole looks each place of each list up by itself: once an item will do.
    items, place = np.unique(matrix, return_inverse=True)
    items, place = items.reshape(-1, 1), place.reshape(matrix.shape)
    result.update(coverage.calculate_metric(facts))
    result.update(gini.calculate_metric(facts))
    for name, metric, values in (("averagepopularity", popularity, popularity.get_pop(items, occurring)),
                                 ("tailpercentage", tail, tail.get_tail(items, occurring))):
        result.update(metric.topk_result(name, metric.metric_info(values.ravel()[place])))
    return {name: None if value is None else float(value) for name, value in result.items()}
