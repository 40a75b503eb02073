"""Leak checks: every figure against brute force on small random data, and what is chance."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_genrec.data import leakage
from recbole_genrec.data.dataset import Sequences
from recbole_genrec.data.leakage import IdProbe, find_leaks, id_order, is_adjacent, render

NAN = float("nan")


class Case:
    """A data set as the checks see it, split leave-one-out: each user's items and times, in the order used."""

    def __init__(self, users: list[list[tuple[int, float]]], tokens: list[str], again: bool = False):
        self.users, self.tokens, self.again = users, ["[PAD]", *tokens], again
        self.columns = [(number, item, time) for number, rows in enumerate(users, 1) for item, time in rows]
        lengths = [len(rows) for rows in users]
        ends = np.cumsum(lengths)
        self.targets = {"train": [], "valid": [], "test": []}
        for length, end in zip(lengths, ends.tolist()):
            parts = ["train"] * (length - 1) if length < 3 else ["train", "test"] if length == 3 \
                else ["train"] * (length - 3) + ["valid", "test"]
            for part, row in zip(parts, range(end - length + 1, end)):
                self.targets[part].append(row)
        self.starts = np.repeat(ends - lengths, lengths).tolist()

    def history(self, row: int) -> list[int]:
        return [item for _, item, _ in self.columns[self.starts[row]:row]]

    def loaded(self):
        user, item, time = zip(*self.columns)
        sequences = Sequences(torch.tensor(user), torch.tensor(item), torch.tensor(time, dtype=torch.float64),
                              torch.tensor(self.starts))
        dataset = SimpleNamespace(sequences=sequences, iid_field="item", field2id_token={"item": np.array(self.tokens)},
                                  item_num=len(self.tokens), user_num=len(self.users) + 1,
                                  config={"repeat_consumption": self.again}, dropped_interactions=0,
                                  duplicate_items=0)
        parts = [SimpleNamespace(inter_feat={"target_row": torch.tensor(rows, dtype=torch.long)})
                 for rows in self.targets.values()]
        return dataset, parts

    def report(self) -> dict:
        return find_leaks(*self.loaded())

    def probe(self) -> IdProbe:
        return IdProbe(self.loaded()[0], np.array(self.targets["test"]))


@st.composite
def cases(draw) -> Case:
    """Up to six users with repeats, ties, unknown and unordered times; numeric or textual ids."""
    n_items = draw(st.integers(1, 12))
    token = draw(st.sampled_from([st.integers(0, 10**20).map(str), st.sampled_from(["7", "007", "70", "8", "08"]),
                                  st.text("aZ9-é", min_size=1, max_size=4)]))
    tokens = draw(st.lists(token, min_size=n_items, max_size=n_items, unique=True)) if n_items < 6 else \
        draw(st.permutations([f"{n}" for n in range(90, 90 + n_items)]))
    row = st.tuples(st.integers(1, n_items), st.sampled_from([1.0, 2.0, 3.0, NAN]))
    users = [draw(st.lists(row, min_size=3, max_size=9)), *draw(st.lists(st.lists(row, min_size=1, max_size=9),
                                                                        max_size=5))]
    return Case(users, list(tokens), draw(st.booleans()))


def adjacency(case: Case, numbers: list[float]) -> tuple[float, float, int]:
    hit, gain, found = 0, 0.0, set()
    for row in case.targets["test"]:
        target = case.columns[row][1]
        rank = numbers[target] - max(numbers[item] for item in case.history(row))
        if 1 <= rank <= 10:
            hit, gain = hit + 1, gain + 1 / math.log2(rank + 1)
            found.add(target)
    users = len(case.targets["test"])
    return hit / users, gain / users, len(found)


def neighbours(case: Case) -> list[tuple[int, float, int, float]]:
    """(item, time, next item, its time) of one user."""
    pairs = zip(case.columns, case.columns[1:])
    return [(item, time, after, later) for (user, item, time), (other, after, later) in pairs if user == other]


def raw_numbers(tokens: list[str]) -> list[int]:
    items = tokens[1:]
    key = (lambda token: (int(token), token)) if all(map(str.isdecimal, items)) else (lambda token: token)
    return [-1, *(sorted(items, key=key).index(token) for token in items)]


def ascending(pairs, numbers) -> float | None:
    pairs = [pair for pair in pairs if pair[0] != pair[2]]
    return sum(numbers[pair[0]] < numbers[pair[2]] for pair in pairs) / len(pairs) if pairs else None


# ------------------------------------------------------------------------------------------- brute force

@settings(max_examples=300)
@given(cases())
def test_every_figure_against_brute_force(case):
    report, columns = case.report(), case.columns
    numbers = {"appearance": list(range(len(case.tokens))), "raw_id": raw_numbers(case.tokens)}
    for key, numbering in numbers.items():
        rule = report["adjacency"][key]
        assert (rule["hit"], rule["ndcg"], rule["found"]) == pytest.approx(adjacency(case, numbering), abs=1e-6)

    known = [pair for pair in neighbours(case) if not math.isnan(pair[1] + pair[3])]
    tied = [pair for pair in known if pair[1] == pair[3]]
    apart = [pair for pair in neighbours(case) if pair[1] != pair[3]]  # NaN is apart from everything
    for figures, pairs in ((report["order"], apart), (report["ties"], tied)):
        assert figures["pairs"] == sum(item != after for item, _, after, _ in pairs)
        assert figures["ascending"] == pytest.approx(ascending(pairs, numbers["raw_id"]), abs=1e-6)
    assert (report["ties"]["timed_pairs"], report["ties"]["tied_pairs"]) == (len(known), len(tied))
    times = {row: (columns[row - 1][2], columns[row][2]) for row in case.targets["test"]}
    assert report["ties"]["timed_targets"] == sum(not math.isnan(sum(pair)) for pair in times.values())
    assert report["ties"]["tied_targets"] == sum(before == at for before, at in times.values())
    by_user = [[time for _, time in rows if not math.isnan(time)] for rows in case.users]
    assert report["order"]["backward_users"] == sum(times != sorted(times) for times in by_user)

    inside = {part: sum(columns[row][1] in case.history(row) for row in rows) for part, rows in case.targets.items()}
    assert report["targets_in_history"] == {part: inside[part] for part in ("valid", "test")}
    seen = {item for part in ("train", "valid") for row in case.targets[part] for item in
            [columns[row][1], *case.history(row)]}
    cold = [columns[row][1] for row in case.targets["test"] if columns[row][1] not in seen]
    assert report["test_only"] == {"items": len(set(cold)), "users": len(cold)}
    timed = [row for row in columns if not math.isnan(row[2])]
    assert report["duplicates"] == {"interactions": len(columns) - len({row[:2] for row in columns}),
                                    "same_time": len(timed) - len(set(timed))}
    assert (report["users"], report["items"], report["interactions"], report["valid_users"], report["test_users"]) == \
        (len(case.users), len(case.tokens) - 1, len(columns), len(case.targets["valid"]), len(case.targets["test"]))

    # The judgement: what needs no comparison with chance.
    expected = {"backward_time": report["order"]["backward_users"] > 0,
                **{f"{part}_in_history": inside[part] > 0 and not case.again for part in ("valid", "test")}}
    assert {name: name in report["flagged"] for name in expected} == expected
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    table = render(report)
    assert table.count("LEAK") == len(report["flagged"]) and "nan" not in table and "None" not in table


@settings(max_examples=100)
@given(cases(), st.data())
def test_of_any_numbering_the_order_counts(case, data):
    """Gaps say nothing, and items that share a number are no neighbours."""
    numbers = data.draw(st.lists(st.integers(-50, 50), min_size=len(case.tokens), max_size=len(case.tokens)))
    places = [sorted(set(numbers[1:])).index(number) if place else -1 for place, number in enumerate(numbers)]
    found = case.probe()(np.array(numbers))
    assert tuple(found["adjacency"][key] for key in ("hit", "ndcg", "found")) == pytest.approx(adjacency(case, places))
    for key, tied in (("apart", False), ("tied", True)):
        pairs = [pair for pair in neighbours(case) if (pair[1] == pair[3]) is tied]
        assert found[key]["ascending"] == pytest.approx(ascending(pairs, numbers) if found[key]["pairs"] else NAN,
                                                        nan_ok=True)
    with pytest.raises(ValueError):
        case.probe()(np.array(numbers[1:]))


@pytest.mark.parametrize("distance, ndcg", [(0, 0), (1, 1), (2, 1 / math.log2(3)), (10, 1 / math.log2(11)), (11, 0)])
def test_the_rule_tries_ten_numbers(distance, ndcg):
    case = Case([[(2, 1.0), (5, 2.0), (1, 3.0), (5 + distance, 4.0)]], [f"{number}" for number in range(20)])
    found = case.probe()(np.arange(21))["adjacency"]
    assert (found["hit"], found["ndcg"]) == (ndcg > 0, pytest.approx(ndcg))


@settings(max_examples=200)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.integers(1, 3), st.booleans())
def test_natural_order(numbers, width, text):
    tokens = list(dict.fromkeys(f"{number:0{width}d}" for number in numbers)) + ["9" * 5000] + ["x"] * text
    expected = sorted(tokens) if text else [*sorted(tokens[:-1], key=int), tokens[-1]]
    places = id_order(tokens)
    assert [tokens[place] for place in np.argsort(places)] == expected and sorted(places) == list(range(len(tokens)))


def test_blocks_join_without_a_seam(monkeypatch):
    case = Case([[(item, float(item % 2)) for item in dice.choices(range(1, 9), k=dice.randint(1, 30))]
                 for dice in map(random.Random, range(40))], list("abcdefgh"))
    whole = case.report()
    for size in (1, 7, 64):
        monkeypatch.setattr(leakage, "_BLOCK", size)
        assert case.report() == whole


# ------------------------------------------------------------------------------------------ what is chance

def skewed(seed: int, users: int, items: int, power: float, longest: int) -> Case:
    """Histories drawn by popularity, without repeats; ids say nothing."""
    dice = np.random.default_rng(seed)
    weight = dice.permutation(1 / np.arange(1, items + 1) ** power)
    rows = []
    for _ in range(users):
        order = np.argsort(np.log(weight) + dice.gumbel(size=items))[::-1][:dice.integers(3, longest)]
        rows.append([(int(item) + 1, float(place // 2)) for place, item in enumerate(order)])
    return Case(rows, [f"{number}" for number in dice.permutation(10 * items)[:items]])


SKEWED = [(users, items, power, longest) for users in (1, 7, 60, 400) for items in (15, 60, 400)
          for power in (0.0, 1.0, 2.5) for longest in (5, 14)]


@pytest.mark.parametrize("shape", SKEWED, ids=str)
def test_ids_that_say_nothing_are_not_flagged(shape):
    for seed in range(3):
        assert skewed(seed, *shape).report()["flagged"] == []


@pytest.mark.parametrize("shape", [(800, 400, 2.5, 12), (1000, 1000, 1.5, 20)], ids=str)
def test_ids_that_follow_popularity_only_are_not_flagged(shape):
    """RecBole's ids where the rows stand in random order: what is popular comes first."""
    for seed in range(3):
        case = skewed(seed, *shape)
        rows = random.Random(seed).sample(case.columns, len(case.columns))
        first = list(dict.fromkeys(item for _, item, _ in rows))
        numbers = np.full(len(case.tokens), len(case.tokens))
        numbers[first] = np.arange(len(first))
        probe = case.probe()
        assert not is_adjacent(probe(numbers)["adjacency"])
        probe._popularity = np.zeros_like(probe._popularity)  # shuffles that know nothing of it: a false alarm
        assert is_adjacent(probe(numbers)["adjacency"])


def test_one_popular_item_next_to_another_is_one_coincidence():
    """Everybody had item 1 and takes item 2: numbers that put 2 behind 1 find every user's target."""
    case = Case([[(1, 1.0), (3 + user % 40, 2.0), (1, 3.0), (2, 4.0)] for user in range(300)],
                [f"{n}" for n in range(42)])
    numbers = np.array([0, 100, 101, *range(40)])
    found = case.probe()(numbers)["adjacency"]
    assert found["hit"] == 1 and found["found"] == 1 and not is_adjacent(found)


@pytest.mark.parametrize("found, chance, sd, flagged", [
    (5, 0, 0, False), (6, 0, 0, True), (50, 10, 8, False), (51, 10, 8, True), (25, 9, 0, True), (24, 9, 0, False),
    (199, 100, 2, False), (201, 100, 2, True),
])
def test_how_far_is_too_far_for_chance(found, chance, sd, flagged):
    assert is_adjacent({"found": found, "random_found": chance, "random_sd": sd}) is flagged


@pytest.mark.parametrize("share, chance, sd, pairs, flagged", [
    (0.61, 0.5, 0.021, 9999, True), (0.61, 0.5, 0.023, 9999, False), (0.39, 0.5, 0.021, 9999, True),
    (0.59, 0.5, 0.001, 9999, False), (1.0, 0.5, 0.0, 24, False), (1.0, 0.5, 0.0, 26, True),
    (1.0, 0.98, 0.01, 99, False),
])
def test_how_sorted_is_too_sorted_for_chance(share, chance, sd, pairs, flagged):
    order = {"ascending": share, "random": chance, "random_sd": sd, "pairs": pairs}
    assert leakage._is_sorted(order, 0.4, 0.6) is flagged


def test_the_comparison_is_seeded_and_leaves_other_dice_alone():
    case = skewed(1, 60, 60, 1.0, 9)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert case.report() == case.report()
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
