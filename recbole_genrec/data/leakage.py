"""Leak checks: what a data set gives away that no recommender should be credited with."""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from recbole_genrec.data.dataset import GenRecDataset, Sequences
from recbole_genrec.data.windows import TARGET_ROW

TOP = 10
#: A numbering of items is compared with this many that say nothing.
RENUMBERINGS = 20
_SEED = 2023
#: How many standard deviations from those is too far to be chance.
_FAR = 5
_BLOCK = 1 << 18  # rows compared at once: bounds the memory of a big data set


def id_order(tokens: Iterable[str]) -> np.ndarray:
    """Each token's place (``[n]``, from 0) in order: of value if all are whole numbers, else of text."""
    tokens = list(tokens)
    numeric = all(token.isdecimal() for token in tokens)

    def key(place: int) -> tuple:
        digits = tokens[place].lstrip("0")  # any length: a long number has no int64
        return (len(digits), digits, tokens[place]) if numeric else (tokens[place],)

    places = np.empty(len(tokens), dtype=np.int64)
    places[sorted(range(len(tokens)), key=key)] = np.arange(len(tokens))
    return places


class IdProbe:
    """What a numbering of the items gives away to whoever reads the numbers.

    Three figures: how well the rule "largest number so far + 1, + 2, ..." finds the test items, and how often the
    number ascends from one item of a user to the next, apart in time and tied. Each is compared with
    ``RENUMBERINGS`` seeded shuffles of the numbers among items of like popularity (occurrences within a factor of
    two): popularity can be learnt from the training data, and what it explains is no leak. Numbers that merely
    follow it, as RecBole's do where the rows stand in random order, find popular test items too.

    Nothing depends on the order of the data set's rows, or on RecBole's numbering.

    Args:
        dataset: the whole data set, built.
        rows: ``[B]`` int64, rows of ``dataset.sequences`` that are test targets.
    """

    def __init__(self, dataset: GenRecDataset, rows: np.ndarray):
        user, self._item, time, start = _columns(dataset.sequences)
        pair = (user[1:] == user[:-1]) & (self._item[1:] != self._item[:-1])
        tied = time[1:] == time[:-1]  # an unknown time equals nothing
        self._apart, self._tied = pair & ~tied, pair & tied
        self._target = self._item[rows]
        self._spans = np.stack([start[rows], rows], axis=1).ravel()
        #: ``[n_items - 1]`` place of items 1, 2, ... in the natural order of their raw ids.
        self.raw_order = id_order(map(str, dataset.field2id_token[dataset.iid_field][1:]))
        self._popularity = np.frexp(np.bincount(self._item, minlength=dataset.item_num)[1:])[1]

    def __call__(self, numbers: np.ndarray) -> dict[str, dict[str, float]]:
        """The three figures of one numbering.

        Args:
            numbers: ``[n_items]`` integers, item -> number; only their order counts. Entry 0 (padding) is ignored.
        Returns:
            ``adjacency`` (``hit``, ``ndcg`` at 10, ``found``: how many different test items the rule finds),
            ``apart`` and ``tied`` (``ascending``: share of pairs; ``pairs``), each with ``random_*`` (mean over the
            shuffles) and ``random_sd`` of ``found`` or ``ascending``. NaN: there are no such pairs.
        """
        if len(numbers) != len(self.raw_order) + 1:
            raise ValueError(f"{len(numbers)} numbers for {len(self.raw_order)} items and the padding")
        places = np.unique(numbers[1:], return_inverse=True)[1].reshape(-1)
        hit, ndcg, found, apart, tied = self._figures(places)
        dice = np.random.default_rng(_SEED)
        shuffled = np.array([self._figures(self._shuffled(places, dice)) for _ in range(RENUMBERINGS)])
        mean, sd = shuffled.mean(axis=0), shuffled.std(axis=0, ddof=1)
        return {
            "adjacency": {"hit": hit, "ndcg": ndcg, "found": found, "random_hit": mean[0], "random_ndcg": mean[1],
                          "random_found": mean[2], "random_sd": sd[2]},
            "apart": {"ascending": apart, "random": mean[3], "random_sd": sd[3], "pairs": int(self._apart.sum())},
            "tied": {"ascending": tied, "random": mean[4], "random_sd": sd[4], "pairs": int(self._tied.sum())},
        }

    def _shuffled(self, places: np.ndarray, dice: np.random.Generator) -> np.ndarray:
        """The same numbers, dealt anew within each class of popularity; items are taken by raw id."""
        shuffled = np.empty_like(places)
        deal = np.lexsort((dice.random(len(places))[self.raw_order], self._popularity))
        shuffled[deal] = places[np.lexsort((self.raw_order, self._popularity))]
        return shuffled

    def _figures(self, places: np.ndarray) -> tuple[float, ...]:
        """``hit, ndcg, found`` of the rule and the two ascending shares; ``places`` of items 1, 2, ..."""
        table = np.concatenate([[-1], places]).astype(np.int32)
        value = table[self._item]
        ascends = value[1:] > value[:-1]
        largest = np.maximum.reduceat(value, self._spans)[::2]  # over [start, row); the other halves are between
        rank = table[self._target] - largest
        hit = (rank >= 1) & (rank <= TOP)
        counts = np.bincount(rank[hit], minlength=TOP + 1)[1:]
        return (hit.mean(), counts @ (1 / np.log2(np.arange(2, TOP + 2))) / len(rank),
                len(np.unique(self._target[hit])), _share(ascends, self._apart), _share(ascends, self._tied))


def is_adjacent(adjacency: dict[str, float]) -> bool:
    """Whether the rule finds more than chance: ``adjacency`` as :class:`IdProbe` returns it.

    Different items are counted, not users: one popular item next to another makes many hits by one coincidence.
    """
    chance = adjacency["random_found"]
    spread = max(adjacency["random_sd"], chance ** 0.5, 1.0)  # twenty shuffles of a rare event may all be zero
    return bool(adjacency["found"] > chance + _FAR * spread and adjacency["found"] > 2 * chance)


def index_leak(dataset: GenRecDataset, test, numbers: np.ndarray) -> dict[str, Any]:
    """What an index that spells items by plain numbers gives away, for the record.

    Only such an index can be asked: codes of several numbers are near each other because the items are alike.

    Args:
        dataset: the whole data set, built.
        test: its test part.
        numbers: ``[n_items]`` int64, item -> number.
    Returns:
        ``adjacency`` of :class:`IdProbe`, and ``flagged``: the rule finds more than chance.
    """
    adjacency = IdProbe(dataset, test.inter_feat[TARGET_ROW].numpy())(numbers)["adjacency"]
    return {**_plain(adjacency), "flagged": is_adjacent(adjacency)}


def _is_sorted(order: dict[str, float], low: float, high: float) -> bool:
    """Whether the ascending share is outside [low, high], and not by chance."""
    if not order["pairs"]:
        return False
    spread = max(order["random_sd"], 0.5 / order["pairs"] ** 0.5)
    return not low <= order["ascending"] <= high and abs(order["ascending"] - order["random"]) > _FAR * spread


# ------------------------------------------------------------------------------------------------ the data set

def find_leaks(dataset: GenRecDataset, parts) -> dict[str, Any]:
    """All checks on one data set and its split.

    Args:
        dataset: the whole data set, built.
        parts: its train, valid and test data sets.
    Returns:
        figures by check, ready for JSON (shares from 0 to 1, None: cannot be known), and ``flagged``: the names of
        the checks that found a leak.
    """
    sequences = dataset.sequences
    rows = [part.inter_feat[TARGET_ROW].numpy() for part in parts]
    test = parts[2].inter_feat[TARGET_ROW]
    probe = IdProbe(dataset, rows[2])
    appearance, raw = probe(np.arange(dataset.item_num)), probe(np.concatenate([[-1], probe.raw_order]))
    del probe
    repeat, same_time = _repeats(sequences)
    timed_pairs, tied_pairs, backwards = _times(sequences)
    report = {
        "users": int(dataset.user_num - 1), "items": int(dataset.item_num - 1), "interactions": len(repeat),
        "valid_users": len(rows[1]), "test_users": len(rows[2]),
        "repeat_consumption": bool(dataset.config["repeat_consumption"]),
        "adjacency": {"appearance": appearance["adjacency"], "raw_id": raw["adjacency"]},
        "order": {"backward_users": backwards, **raw["apart"]},
        "ties": {"timed_pairs": timed_pairs, "tied_pairs": tied_pairs,
                 "timed_targets": int(sequences.timed(test).sum()), "tied_targets": int(sequences.tied(test).sum()),
                 **raw["tied"]},
        "targets_in_history": {"valid": int(repeat[rows[1]].sum()), "test": int(repeat[rows[2]].sum())},
        "test_only": _test_only(sequences, rows, dataset.item_num),
        "duplicates": {"interactions": int(repeat.sum()), "same_time": same_time},
        "left_out": {"interactions": dataset.dropped_interactions, "item_rows": dataset.duplicate_items},
    }
    report = _plain(report)
    report["flagged"] = [check.name for check in judge(report) if check.verdict == "LEAK"]
    return report


def _columns(sequences: Sequences) -> tuple[np.ndarray, ...]:
    return tuple(column.numpy() for column in (sequences.user, sequences.item, sequences.time, sequences.start))


def _repeats(sequences: Sequences) -> tuple[np.ndarray, int]:
    """``[n]`` bool: the user had the row's item before; and how many rows repeat one of the same known time."""
    user, item, time, start = _columns(sequences)
    n_items, repeat, same_time = int(item.max()) + 1, np.zeros(len(user), dtype=bool), 0
    edges = np.unique(np.append(start[::_BLOCK], len(user)))  # where users begin
    for begin, end in zip(edges[:-1], edges[1:]):
        pair = pd.Series(user[begin:end] * n_items + item[begin:end])
        repeat[begin:end] = again = pair.duplicated().to_numpy()
        if again.any():
            rows = np.flatnonzero(pair.duplicated(keep=False) & ~np.isnan(time[begin:end]))
            same_time += int(pd.DataFrame({"pair": pair.to_numpy()[rows], "time": time[begin + rows]})
                             .duplicated().sum())
    return repeat, same_time


def _times(sequences: Sequences) -> tuple[int, int, int]:
    """Neighbouring pairs with known times, those of one time, and users whose known times run backwards."""
    user, _, time, _ = _columns(sequences)
    same_user, known = user[1:] == user[:-1], ~np.isnan(time)
    pairs, tied = int((same_user & known[1:] & known[:-1]).sum()), int((same_user & (time[1:] == time[:-1])).sum())
    if not known.all():
        user, time = user[known], time[known]
    backwards = (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    return pairs, tied, len(np.unique(user[1:][backwards]))


def _test_only(sequences: Sequences, rows: list[np.ndarray], n_items: int) -> dict[str, int]:
    """Test items that no training or validation sample holds, and the users tested on them."""
    _, item, _, start = _columns(sequences)
    seen = np.zeros(n_items, dtype=bool)
    for sample in rows[:2]:  # each sample's target, and the user's first item, which is nobody's target
        seen[item[sample]] = True
        seen[item[start[sample]]] = True
    unseen = item[rows[2]][~seen[item[rows[2]]]]
    return {"items": len(np.unique(unseen)), "users": len(unseen)}


def _share(what: np.ndarray, of: np.ndarray) -> float:
    total = np.count_nonzero(of)
    return np.count_nonzero(what & of) / total if total else float("nan")


def _plain(value: Any) -> Any:
    """Python numbers, six digits behind the point, None for NaN."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else round(float(value), 6)
    return value


# ----------------------------------------------------------------------------------------------- what it means

class Check(NamedTuple):
    """One line of the table; ``verdict`` is ``ok``, ``LEAK`` or ``note``."""

    name: str
    label: str
    value: str
    compared: str
    verdict: str
    meaning: str


def judge(report: dict[str, Any]) -> list[Check]:
    """The checks of a report of :func:`find_leaks`, judged."""
    order, ties, inside = report["order"], report["ties"], report["targets_in_history"]
    cold, repeats, users = report["test_only"], report["duplicates"], f"of {report['test_users']:,} users"
    timed, again = ties["timed_pairs"] > 0, report["repeat_consumption"]
    checks = []

    def add(name: str, label: str, value: str, compared: str, meaning: str, leak=False, note=False, fine="none"):
        verdict = "LEAK" if leak else "note" if note else "ok"
        checks.append(Check(name, label, value, compared, verdict, meaning if leak or note else fine))

    for key, label in (("appearance", "order of appearance"), ("raw_id", "raw ids")):
        rule = report["adjacency"][key]
        add(f"adjacency_{key}", f"id adjacency, {label}",
            f"hit@10 {rule['hit']:.4f}, ndcg@10 {rule['ndcg']:.4f}, items {rule['found']:,}",
            f"shuffled {rule['random_hit']:.4f}, {rule['random_ndcg']:.4f}, {rule['random_found']:,.1f}",
            "such ids, spelled out, give test items away", leak=is_adjacent(rule), fine="such ids say nothing")

    add("backward_time", "users whose time runs backwards", f"{order['backward_users']:,}" if timed else "unknown",
        f"of {report['users']:,} users",
        "a history holds what came after its target" if timed else "no times to check the order by",
        leak=order["backward_users"] > 0, note=not timed)
    add("sorted_by_id", "raw id ascends, neighbours apart in time", _percent(order["ascending"]),
        f"shuffled {_percent(order['random'])}", "sorted by id, or ids follow time",
        leak=_is_sorted(order, 0.1, 0.9), fine="not sorted by id" if order["pairs"] else "no such pairs")
    add("tied_pairs", "neighbours of the same time", _percent(_ratio(ties["tied_pairs"], ties["timed_pairs"])),
        f"of {ties['timed_pairs']:,} pairs", "which came first is not known" if timed else "no times, no ties to see",
        note=ties["tied_pairs"] > 0 or not timed)
    add("tied_targets", "test items tied with the item before",
        _percent(_ratio(ties["tied_targets"], ties["timed_targets"])), f"of {ties['timed_targets']:,} users",
        'see "*_untied" in the records' if timed else "no times, no ties to see",
        note=ties["tied_targets"] > 0 or not timed)
    add("tie_order", "raw id ascends, tied neighbours", _percent(ties["ascending"]),
        f"shuffled {_percent(ties['random'])}", "ids tell which of a tie is called next",
        leak=_is_sorted(ties, 0.4, 0.6), fine="ids say nothing of it" if ties["pairs"] else "no such pairs")

    for part, label in (("valid", "validation"), ("test", "test")):
        add(f"{part}_in_history", f"{label} items in own history", f"{inside[part]:,}",
            f"of {report[f'{part}_users']:,} users",
            "users take items again" if again else "masked: they can never be found",
            leak=inside[part] > 0 and not again, note=inside[part] > 0)
    add("test_only", "items seen only in test", f"{cold['items']:,}, by {cold['users']:,} users", users,
        "no model can have learnt them", note=cold["items"] > 0)
    add("duplicates", "interactions: same user and item again", f"{repeats['interactions']:,}",
        f"of {report['interactions']:,}", "taken again, or written twice", note=repeats["interactions"] > 0)
    add("same_time", "interactions: ... at the same time", f"{repeats['same_time']:,}",
        f"of {report['interactions']:,}", "probably written twice", note=repeats["same_time"] > 0)
    add("left_out", "interactions left out when read", f"{report['left_out']['interactions']:,}", "of the file's rows",
        "no row for them in the .item or .user file", note=report["left_out"]["interactions"] > 0)
    add("item_rows", "rows of .item that repeat an item", f"{report['left_out']['item_rows']:,}", "of the file's rows",
        "the first one counts", note=report["left_out"]["item_rows"] > 0)
    return checks


def render(report: dict[str, Any]) -> str:
    """The table for a reader, of a report of :func:`find_leaks` (or a record's ``leakage``)."""
    headers = ["check", "value", "compared with", "verdict", "meaning"]
    return tabulate([check[1:] for check in judge(report)], headers=headers, disable_numparse=True)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"
