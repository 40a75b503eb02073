"""One run's metrics, users apart: by length of history, popularity of the target, ties in time, what training told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.significance import gains
from recbole_genrec.index.material import Interactions

#: Longest history of each slice, the last one open.
HISTORY = (5, 10, 20, 50)
#: Most training interactions of each slice's targets: never seen, rare, ... the last one open.
POPULARITY = (0, 4, 19, 99)
METRICS = ("hit@10", "ndcg@10")
_COLUMNS = ("user", "rank", "tied", "history", "target_count")


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


def by_memory(record: Mapping[str, Any], output_dir: str | Path, data,
              metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Users by what training could tell of their target by heart. As :func:`by_history`.

    ``followed``: in somebody's training history the target came right after the last item of the user's;
    ``together``: it did not, but was in one training history with an item of the user's; ``neither``.

    Args:
        data: the run's data set and split (:class:`recbole_genrec.data.loading.Data`).
    """
    users = read_users(record, output_dir).set_index("user")
    training, test = Interactions.of_training(data.parts[0]), data.parts[2].inter_feat
    items, target = data.dataset.item_num, test[data.dataset.iid_field].numpy()
    history = data.dataset.sequences.history(test[TARGET_ROW]).numpy()
    same = training.user[1:] == training.user[:-1]
    pairs = training.item[:-1][same] * items + training.item[1:][same]
    followed = np.isin(history[np.arange(len(history)), (history > 0).sum(1) - 1] * items + target, pairs)
    had = csr_array((np.ones(len(training.item), dtype=np.int32), (training.user, training.item)),
                    shape=(data.dataset.user_num, items))
    row, column = history.nonzero()
    met = np.zeros(len(history), dtype=bool)
    np.logical_or.at(met, row, (had.T @ had).tocsr()[target[row], history[row, column]] > 0)
    names = data.dataset.field2id_token[data.dataset.uid_field][test[data.dataset.uid_field].numpy()]
    kind = pd.Series(np.select([followed, met], ["followed", "together"], "neither"), index=names)
    kind = kind.reindex(users.index.astype(str))
    return _table(users, [(name, kind == name) for name in ("followed", "together", "neither")], metrics)


def read_users(record: Mapping[str, Any], output_dir: str | Path) -> pd.DataFrame:
    """The run's ``per_user.parquet``, but for the lists.

    Raises:
        UserError: it is gone or torn.
    """
    path = Path(output_dir) / "runs" / str(record["run_id"]) / "per_user.parquet"
    try:
        there = pq.read_schema(path).names  # an older run may lack one; the lists are large and of no use here
        return pd.read_parquet(path, columns=[name for name in _COLUMNS if name in there])
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
