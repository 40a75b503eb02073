"""What a row of a report has besides its figures: commands, training curve, users apart, free text, leak checks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.slices import by_history, by_popularity

#: What a leaderboard tells of a run's settings, for runs whose config.yaml is gone.
_TOLD = {"seed": "seed", "backbone": "llm", "item_index": "item_index", "decode": "decode", "norm": "norm",
         "layout": "layout", "objective": "objective", "mask_history": "mask_history"}


def run(row: dict[str, Any], name: str, counted: bool) -> dict[str, Any]:
    """What the page tells of one run.

    Args:
        row: the run, with its ``config_file``.
        name: of the output folder, as commands call it.
        counted: the run is in the row's mean.
    """
    facts = {key: row.get(key) for key in ("run_id", "seed", "timestamp", "config_hash", "version",
                                           "dataset_fingerprint", "split_fingerprint", "prompt_fingerprint",
                                           "trie_fingerprint")}
    machine = row.get("machine") or {}
    facts["machine"] = ", ".join(str(part) for part in (machine.get("gpu") or machine.get("processor"),
                                                        machine.get("threads") and f"{machine['threads']} thread(s)")
                                 if part)
    facts["libraries"] = ", ".join(f"{library} {version}" for library, version in (row.get("versions") or {}).items())
    whole = row["config_file"].is_file()
    return {**{key: value for key, value in facts.items() if value not in (None, "")}, "counted": counted,
            "command": command(row, name, whole), "whole": whole}


def command(row: dict[str, Any], name: str, whole: bool = False) -> str:
    """The command that repeats a run.

    Args:
        whole: its ``config.yaml`` is there and says every setting; otherwise the command says what the row tells.
    """
    words = ["recbole-genrec", "run", f"--model={row.get('model')}", f"--dataset={row.get('dataset')}"]
    if whole:
        words.append(f"--config_files={name}/runs/{row['run_id']}/config.yaml")
    else:
        words += [f"--{option}={row[key]}" for key, option in _TOLD.items() if row.get(key) is not None]
    return " ".join(map(shlex.quote, words))


def curve(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A point an epoch: ``epoch`` (from 1), ``seconds`` since the start, ``loss``, and metrics where validated."""
    points, seconds = [], 0.0
    for number, point in enumerate(row.get("curve") or [], 1):
        seconds += point.get("seconds") or 0.0
        points.append({"epoch": number, "seconds": round(seconds, 1), "loss": point.get("loss"),
                       **(point.get("valid") or {})})
    return points


def slices(runs: list[dict[str, Any]], metrics: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """``history`` and ``popularity``: metrics of users apart, averaged over runs; nothing where users are not known."""
    tested = [metric for metric in metrics if metric.startswith(("hit@", "ndcg@"))]
    result = {}
    for name, cut in (("history", by_history), ("popularity", by_popularity)):
        try:  # a file that is there may be older than a column
            tables = [cut(run, run["config_file"].parents[2], tested) for run in runs
                      if run["users_file"].name == "per_user.parquet" and run["users_file"].is_file()]
        except (UserError, KeyError):
            continue
        if tables and len(tables) == len(runs) and len(tables[0]):
            mean = sum(table[tested] for table in tables) / len(tables)
            result[name] = [{"slice": label, "users": int(users), **figures} for label, users, figures
                            in zip(tables[0]["slice"], tables[0]["users"], mean.to_dict("records"))]
    return result


def validity(values: dict[str, float]) -> dict[str, float] | None:
    """Shares of what the model writes unconstrained, which add up to one; None if that was not measured."""
    valid = values.get("valid_rate")
    if valid is None:
        return None
    repeats, near = valid * (values.get("duplicate_rate") or 0.0), values.get("near_miss_rate")
    shares = {"valid": valid - repeats, "repeats": repeats, "near miss": near or 0.0,
              "empty": values.get("empty_rate") or 0.0}
    return {**shares, "other" if near is not None else "not valid": max(0.0, 1.0 - sum(shares.values()))}


def leak_checks(leakage: dict[str, Any] | None) -> list[dict[str, str]]:
    """The leak checks of a data set, as ``check-data`` prints them."""
    if not leakage:
        return []
    from recbole_genrec.data.leakage import judge  # brings RecBole along

    try:
        return [{key: str(value) for key, value in check._asdict().items()} for check in judge(leakage)]
    except (AttributeError, KeyError, TypeError, ValueError):  # another version's
        return []
