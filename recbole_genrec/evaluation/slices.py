"""One run's metrics, users apart: by length of history, by popularity of the target, by ties in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.significance import gains

#: Longest history of each slice, the last one open.
HISTORY = (5, 10, 20, 50)
#: Most training interactions of each slice's targets: never seen, rare, ... the last one open.
POPULARITY = (0, 4, 19, 99)
METRICS = ("hit@10", "ndcg@10")


def by_history(record: Mapping[str, Any], output_dir: str | Path, metrics: Sequence[str] = METRICS,
               edges: Sequence[int] = HISTORY) -> pd.DataFrame:
    """Users by the number of items they had before the target.

    Args:
        record: a good run's.
        output_dir: where ``runs/`` is.
        metrics: ``hit@K`` and ``ndcg@K``.
        edges: the longest history of each slice but the last.
    Returns:
        a row for each slice that has users, shortest first: ``slice`` ("6-10"), ``users``, and the metrics' means.
    Raises:
        UserError: the run's users cannot be read.
    """
    users = read_users(record, output_dir)
    return _table(users, _bins(users["history"], edges), metrics)


def by_popularity(record: Mapping[str, Any], output_dir: str | Path, metrics: Sequence[str] = METRICS,
                  edges: Sequence[int] = POPULARITY) -> pd.DataFrame:
    """Users by how often their target occurs in training: "0" is cold. As :func:`by_history`, rarest first.

    Empty for a run of an older version, which did not count.
    """
    users = read_users(record, output_dir)
    if "target_count" not in users:
        return _table(users.iloc[:0], [], metrics)
    return _table(users, _bins(users["target_count"], edges), metrics)


def by_tie(record: Mapping[str, Any], output_dir: str | Path, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Users whose target has a time of its own (``untied``), shares it with the item before it (``tied``), or whose
    times are ``unknown``. As :func:`by_history`."""
    users = read_users(record, output_dir)
    kind = users["tied"].map({False: "untied", True: "tied"}).astype(object).fillna("unknown")
    return _table(users, [("untied", kind == "untied"), ("tied", kind == "tied"), ("unknown", kind == "unknown")],
                  metrics)


def read_users(record: Mapping[str, Any], output_dir: str | Path) -> pd.DataFrame:
    """The run's ``per_user.parquet``.

    Raises:
        UserError: it is gone or torn.
    """
    path = Path(output_dir) / "runs" / str(record["run_id"]) / "per_user.parquet"
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _bins(values: pd.Series, edges: Sequence[int]) -> Iterable[tuple[str, pd.Series]]:
    """Name and members of each slice: up to the first edge, ..., above the last."""
    low = 0
    for edge in edges:
        yield str(edge) if low == edge else f"{low}-{edge}", (values >= low) & (values <= edge)
        low = edge + 1
    yield f"{low}+", values >= low


def _table(users: pd.DataFrame, slices: Iterable[tuple[str, pd.Series]], metrics: Sequence[str]) -> pd.DataFrame:
    rank = users["rank"].to_numpy(dtype=float, na_value=np.nan)
    rows = [{"slice": name, "users": int(members.sum()),
             **{metric: float(gains(rank[members.to_numpy(dtype=bool)], metric).mean()) for metric in metrics}}
            for name, members in slices if members.any()]
    return pd.DataFrame(rows, columns=["slice", "users", *metrics])
