"""Which differences between models are more than luck: confidence intervals and paired tests over users.

Two kinds of luck are told apart. Other users like these: each user's gain, averaged over the model's seeds, goes into a
bootstrap and into paired tests, which take the trained models as given. Another seed: the standard deviation over
seeds beside the mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel, wilcoxon

from recbole_genrec.errors import UserError
from recbole_genrec.records import rows_of
from recbole_genrec.settings import CARRYING_OUT, DUMPED, LATER, read_yaml

#: A mark for a p-value (corrected, see :func:`holm`) below each of these.
_MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
#: A metric of which each user's share is known.
METRIC = re.compile(r"(hit|ndcg)@([1-9]\d*)")
#: Rows that may be compared: the same targets, ranked among the same items.
SETTING = ["dataset", "split_fingerprint", "mask_history", "candidates_fingerprint"]
#: What makes a row of the table, within a setting.
GROUP = ["model", "settings_label", "backbone", "item_index", "ablation", "variant", "prompts"]
_COLUMNS = [*SETTING, *GROUP, "leaky", "n_seeds", "mean", "sd", "ci_low", "ci_high", "baseline", "difference", "p_t",
            "p_wilcoxon", "mark", "users", "runs", "left_out"]
#: Evaluation-only probe of a leak: no baseline to beat.
PROBES = ("IDAdjacency",)
#: Keys of config.yaml in which runs of one group may differ: the seed, and what bears on no number.
FREE = CARRYING_OUT | {"seed", "use_gpu", "reproducibility"}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the chance that any of them is below its limit by luck stays below that limit.

    Holm 1979. statsmodels has it too, with 65 MB and four packages around these lines; the tests compare the two.
    """
    corrected, largest = list(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = corrected[index] = max(largest, min(1.0, (len(p) - rank) * p[index]))
    return corrected


def mark(p: float | None) -> str:
    """Stars for a p-value; none for none."""
    return next((stars for limit, stars in _MARKS if p is not None and p < limit), "")


def gains(rank: np.ndarray, metric: str) -> np.ndarray:
    """What each user adds to the mean.

    Args:
        rank: ``[users]`` from 1, NaN where the target was not recommended.
        metric: ``hit@k`` or ``ndcg@k``, of one target per user.
    """
    kind, k = parse(metric)
    hit = rank <= k
    return hit.astype(float) if kind == "hit" else np.where(hit, 1 / np.log2(np.where(hit, rank, 1) + 1), 0.0)


def parse(metric: str) -> tuple[str, int]:
    """``"ndcg@10"`` -> ``("ndcg", 10)``. Raises UserError for anything but hit and ndcg at some k."""
    match = METRIC.fullmatch(metric)
    if match is None:
        raise UserError(f"metric '{metric}' is not hit@K or ndcg@K, such as ndcg@10")
    return match[1], int(match[2])


def user_gains(path: Path, metric: str) -> pd.Series | None:
    """Gain by user, sorted by user, from a ``per_user.parquet``; None if it cannot be read."""
    try:
        table = _ranks_in(path.resolve(), path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError):
        return None
    rank = table["rank"].to_numpy(dtype=float, na_value=np.nan)
    return pd.Series(gains(rank, metric)).groupby(table["user"].to_numpy()).mean()


def over_seeds(runs: Iterable[pd.Series | None]) -> pd.Series | None:
    """Each user's mean gain over runs; None if a run's users are unknown or not the same."""
    runs = list(runs)
    if not runs or any(run is None or not run.index.equals(runs[0].index) for run in runs):
        return None
    return pd.Series(np.mean(runs, axis=0), runs[0].index)


def paired_tests(one: pd.Series | None, other: pd.Series | None) -> tuple[float | None, float | None]:
    """Two-sided p-values of the paired t-test and of Wilcoxon's signed-rank test; None where users cannot be paired.

    Users whose gains are equal say nothing to Wilcoxon's test and are left out of it (his own treatment of zeros).
    """
    if one is None or other is None or len(one) < 2 or not one.index.equals(other.index):
        return None, None
    difference = one.to_numpy() - other.to_numpy()
    if not difference.any():
        return 1.0, 1.0
    return float(ttest_rel(one, other).pvalue), float(wilcoxon(difference).pvalue)


def interval(gain: np.ndarray, confidence: float = 0.95, resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean gain over users (Efron 1979).

    A user's gain takes few values (at most k + 1 in one run). Drawing as many users with replacement is drawing how
    often each value comes up, so that the time does not depend on the number of users; the result is distributed as
    that of ``scipy.stats.bootstrap(method="percentile")``.

    Args:
        gain: ``[users]``.
    """
    values, counts = np.unique(gain, return_counts=True)
    dice, share, total = np.random.default_rng(seed), counts / counts.sum(), len(gain)
    step = max(1, 10_000_000 // len(values))  # bounds the memory
    means = [dice.multinomial(total, share, size=min(step, resamples - begin)) @ values / total
             for begin in range(0, resamples, step)]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def compare(records: Sequence[Mapping[str, Any]], output_dir: str | Path, metric: str = "ndcg@10",
            dataset: str | None = None) -> pd.DataFrame:
    """Every model against the best baseline of its setting.

    A row is a group of runs that differ in their seeds alone. Of several settings of a group those of its newest run
    count, of several runs with one seed the newest. A setting (data set, split, masking, candidates) has one best
    baseline: the model without a language-model backbone that has the best mean, leaky rows and the leak probe left
    out. The p-values of a setting are corrected together, those of each ablation's variants apart from the others.

    Args:
        records: oldest first, as :func:`~recbole_genrec.records.read_records` gives them.
        output_dir: where ``runs/`` is.
        metric: ``hit@K`` or ``ndcg@K``.
        dataset: of this data set only.
    Returns:
        best first within a setting; the columns of ``SETTING`` and ``GROUP``; ``leaky``; ``n_seeds, mean, sd`` (NaN
        for one seed), ``ci_low, ci_high``; ``baseline`` (True for the best one), ``difference`` to it, ``p_t,
        p_wilcoxon`` (Holm-corrected; NaN for leaky rows and where users cannot be paired), ``mark`` (stars where the
        model is better by both tests); ``users, runs`` (ids), ``left_out`` (older runs of the group that do not count).
    Raises:
        UserError: no good run has the metric, or an unknown one was asked for.
    """
    parse(metric)
    rows = [row for record in records for row in rows_with_files(record, Path(output_dir) / "runs" / record["run_id"])
            if row.get(metric) is not None and (dataset is None or row["dataset"] == dataset)]
    if not rows:
        known = sorted({str(record.get("dataset")) for record in records if record.get("status") == "ok"})
        raise UserError(f"no run under '{Path(output_dir) / 'runs'}' has {metric}"
                        + (f" on data set '{dataset}'" if dataset else "")
                        + (f"; data sets: {', '.join(known)}" if known else ""))
    settings: dict[tuple, dict[tuple, list[dict]]] = {}
    for row in rows:
        groups = settings.setdefault(tuple(row[key] for key in SETTING), {})
        groups.setdefault(tuple(row[key] for key in GROUP), []).append(row)
    return pd.DataFrame([row for _, groups in sorted(settings.items(), key=str)
                         for row in _compare(list(groups.values()), metric)], columns=_COLUMNS)


def rows_with_files(record: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The rows of a good record, each with its users' file in the run's folder; nothing for any other."""
    if record.get("status") != "ok":
        return []
    rows = []
    for number, row in enumerate(rows_of(dict(record))):
        name = f"per_user.{row['prompts']}.parquet" if number else "per_user.parquet"
        rows.append({**dict.fromkeys(SETTING + GROUP), **row, "item_index": row.get("item_index") or row.get("index"),
                     "users_file": folder / name, "config_file": folder / "config.yaml"})
    return rows


def _compare(groups: list[list[dict]], metric: str) -> list[dict[str, Any]]:
    """The rows of one setting, best first."""
    table, users = [], []
    for runs in groups:
        by_seed = {run.get("seed"): run for run in runs if _same_settings(run, runs[-1])}
        left_out, runs = len(runs) - len(by_seed), list(by_seed.values())
        seeds = [float(run[metric]) for run in runs]
        gain = over_seeds(user_gains(run["users_file"], metric) for run in runs)
        low, high = (np.nan, np.nan) if gain is None else interval(gain.to_numpy())
        table.append({
            **{key: runs[-1][key] for key in SETTING + GROUP}, "leaky": any(bool(run.get("leaky")) for run in runs),
            "n_seeds": len(runs), "mean": float(np.mean(seeds)),
            "sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else np.nan, "ci_low": low, "ci_high": high,
            "users": None if gain is None else len(gain), "runs": " ".join(run["run_id"] for run in runs),
            "left_out": left_out})
        users.append(gain)
    best = _best_baseline(table)
    for number, row in enumerate(table):
        row.update(baseline=number == best, difference=np.nan, p_t=np.nan, p_wilcoxon=np.nan, mark="")
        if best is not None and number != best:
            row["difference"] = row["mean"] - table[best]["mean"]
            fair = not row["leaky"] and row["model"] not in PROBES
            tested = paired_tests(users[number], users[best]) if fair else (None, None)
            row["p_t"], row["p_wilcoxon"] = (np.nan if p is None else p for p in tested)
    for family in {row["ablation"] for row in table}:
        tested = [row for row in table if row["ablation"] == family and not np.isnan(row["p_t"])]
        for test in ("p_t", "p_wilcoxon"):
            for row, p in zip(tested, holm([row[test] for row in tested])):
                row[test] = p
        for row in tested:
            row["mark"] = mark(max(row["p_t"], row["p_wilcoxon"])) if row["difference"] > 0 else ""
    return sorted(table, key=lambda row: -row["mean"])


def _best_baseline(table: list[dict]) -> int | None:
    """The row to beat: the best of those without a backbone that is neither leaky nor a probe nor a variant."""
    fair = [number for number, row in enumerate(table) if row["backbone"] is None and row["variant"] is None
            and not row["leaky"] and row["model"] not in PROBES]
    return max(fair, key=lambda number: table[number]["mean"], default=None)


def _same_settings(run: dict, newest: dict) -> bool:
    """Whether two runs differ in the seed alone, as far as both know a key (an older version knows fewer)."""
    if run is newest or run.get("config_hash") == newest.get("config_hash"):
        return True
    one, other = settings_of(run), settings_of(newest)
    return one is None or other is None or all(one[key] == other[key] for key in one.keys() & other.keys() - FREE)


def settings_of(run: dict) -> dict[str, Any] | None:
    """What the run's ``config.yaml`` says; None if it cannot be read."""
    path = run["config_file"]
    return _settings_in(path.resolve(), path.stat().st_mtime_ns) if path.is_file() else None


# A report asks for the same files once a metric: a file that has not changed is read once.

@lru_cache(maxsize=4096)
def _settings_in(path: Path, changed: int) -> dict[str, Any] | None:
    try:
        settings = read_yaml(path, DUMPED)
    except UserError:
        return None
    return {**LATER, **settings} if settings else None


@lru_cache(maxsize=256)
def _ranks_in(path: Path, changed: int) -> pd.DataFrame:
    return pd.read_parquet(path, columns=["user", "rank"])
