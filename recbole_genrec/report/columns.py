"""The columns of the page: what a figure is called, how it is printed, and under which heading it can be hidden."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from recbole_genrec.records import LIST_METRICS

#: A metric of all test users; not those of lists, which tell no right from wrong.
_METRIC = re.compile(rf"(?!{'|'.join(LIST_METRICS)})[a-z]+@(\d+)")


class Column(NamedTuple):
    """``form``: how the page prints it, see ``report.js``; ``less``: whether less of it is better."""

    key: str
    label: str
    group: str
    form: str
    less: bool = False


QUALITY = Column("", "", "quality", "share")
COLUMNS = [
    Column("train_seconds", "train seconds", "cost", "number", True),
    Column("eval_users_per_second", "users/s", "cost", "number"),
    Column("total_parameters", "parameters", "cost", "compact", True),
    Column("trainable_parameters", "trainable parameters", "more cost", "compact", True),
    Column("epochs_done", "epochs", "more cost", "number", True),
    Column("peak_memory_mb", "peak memory, MB", "more cost", "number", True),
    Column("peak_device_memory_mb", "peak GPU memory, MB", "more cost", "number", True),
    Column("targets_per_second", "targets/s in training", "more cost", "number"),
    Column("flops_per_target", "FLOPs per target", "more cost", "compact", True),
    Column("valid_rate", "valid", "free text", "percent"),
    Column("duplicate_rate", "repeats", "free text", "percent", True),
    Column("near_miss_rate", "near misses", "free text", "percent", True),
    Column("empty_rate", "empty", "free text", "percent", True),
    Column("exact_share", "exact lists", "free text", "percent"),
    Column("hit@10_untied", "hit@10 untied", "leaks", "share"),
    Column("ndcg@10_untied", "ndcg@10 untied", "leaks", "share"),
    Column("hit@10_unmasked", "hit@10 unmasked", "leaks", "share"),
    Column("ndcg@10_unmasked", "ndcg@10 unmasked", "leaks", "share"),
    Column("index_leak_ndcg", "index alone, ndcg@10", "leaks", "share", True),
    Column("index_leak_random_ndcg", "numbers shuffled", "leaks", "share", True),
    Column("targets_in_history", "targets in history", "leaks", "number", True),
    Column("itemcoverage@10", "coverage@10", "lists", "percent"),
    Column("giniindex@10", "Gini@10", "lists", "share", True),
    Column("averagepopularity@10", "popularity@10", "lists", "number", True),
    Column("tailpercentage@10", "tail@10", "lists", "percent"),
]


def quality(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics of all users that a row has, by cut-off: ``hit@5, ndcg@5, hit@10, ...``."""
    names = {key for row in rows for key, value in row.items() if _METRIC.fullmatch(key) and value is not None}
    return sorted(names, key=lambda name: (int(_METRIC.fullmatch(name)[1]), name))
