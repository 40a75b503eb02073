"""Which behaviours are kept: quotas to the number, empty periods, and what holds for any history."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_genrec.infilling.periods import MODES, _fitted, _quotas, choose

DAY = 86400.0
ages = st.lists(st.floats(0, 400), max_size=40).map(lambda days: np.sort(np.array(days))[::-1] * DAY)
histories = st.one_of(ages, st.integers(0, 40))


def spread(short: int, medium: int, long: int) -> np.ndarray:
    """Ages of a history with so many behaviours of each period, oldest first."""
    return np.concatenate([np.linspace(300, 91, long), np.linspace(90, 8, medium), np.linspace(7, 0, short)]) * DAY


def period_of(n: int, age: np.ndarray | None) -> list[int]:
    """0 short, 1 medium, 2 long, behaviour by behaviour."""
    if age is not None:
        return [0 if a <= 7 * DAY else 1 if a <= 90 * DAY else 2 for a in age]
    short = (n + 2) // 3
    medium = (n - short + 1) // 2
    return [2] * (n - short - medium) + [1] * medium + [0] * short


def generator(seed: int):
    return np.random.default_rng([seed, 3])


@pytest.mark.parametrize("places, expected", [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 1, 0)), (4, (3, 1, 0)),
                                              (5, (3, 2, 0)), (10, (6, 3, 1)), (20, (12, 6, 2)), (0, (0, 0, 0))])
def test_quotas(places, expected):
    assert tuple(_quotas(places)) == expected


@given(st.integers(0, 500))
def test_quotas_add_up_and_are_near_the_shares(places):
    quotas = _quotas(places)
    assert quotas.sum() == places and (abs(quotas - places * np.array([.6, .3, .1])) < 1).all()


@pytest.mark.parametrize("rng", [None, 1])
@pytest.mark.parametrize("places, expected", [(1, (1, 0, 0)), (5, (3, 2, 0)), (10, (6, 3, 1))])
def test_rich_periods_have_their_quotas(rng, places, expected):
    age = spread(20, 20, 20)
    kept, shares = choose(60, places, age, rng and generator(rng))
    assert tuple(shares) == expected
    assert tuple(np.bincount(np.array(period_of(60, age))[kept], minlength=3)) == expected


@pytest.mark.parametrize("sizes, expected", [
    ((2, 20, 20), (2, 7, 1)),    # short passes on to medium
    ((2, 4, 20), (2, 4, 4)),     # ... and what medium has no room for to long
    ((20, 1, 20), (8, 1, 1)),    # medium to short first
    ((6, 1, 20), (6, 1, 3)),     # ... then to long
    ((20, 20, 0), (6, 4, 0)),    # long to medium first
    ((20, 3, 0), (7, 3, 0)),     # ... then to short
    ((20, 0, 0), (10, 0, 0)), ((0, 20, 0), (0, 10, 0)), ((0, 0, 20), (0, 0, 10)), ((0, 20, 20), (0, 9, 1)),
    ((1, 0, 20), (1, 0, 9)), ((10, 0, 20), (9, 0, 1)),
])
def test_poor_periods_pass_on(sizes, expected):
    for rng in (None, generator(0)):
        assert tuple(choose(sum(sizes), 10, spread(*sizes), rng)[1]) == expected


@given(st.tuples(*[st.integers(0, 30)] * 3), st.integers(0, 60))
def test_passing_on_fills_all_places(sizes, places):
    places = min(places, sum(sizes))
    counts, quotas = _fitted(_quotas(places), np.array(sizes)), _quotas(places)
    assert counts.sum() == places and (counts >= 0).all() and (counts <= sizes).all()
    assert (counts >= np.minimum(quotas, sizes)).all()


@given(histories, st.integers(0, 45), st.one_of(st.none(), st.integers(0, 5)), st.sampled_from(MODES))
def test_what_holds_for_any_history(history, budget, seed, mode):
    n, age = (history, None) if isinstance(history, int) else (len(history), history)
    kept, shares = choose(n, budget, age, None if seed is None else generator(seed), mode=mode)
    assert kept.dtype == np.int64 and len(kept) == min(n, budget)
    assert (np.diff(kept) > 0).all() and (not len(kept) or 0 <= kept[0])
    assert not len(kept) or kept[-1] == n - 1  # the newest, and nothing later than it
    periods = np.array(period_of(n, age), dtype=int)
    assert np.array_equal(shares, np.bincount(periods[kept], minlength=3))
    if n <= budget or len(set(periods)) <= 1 or mode == "off" or (mode == "samples" and seed is None):
        assert np.array_equal(kept, np.arange(n - len(kept), n))
    elif mode == "items":
        assert np.array_equal(shares, _fitted(_quotas(budget), np.bincount(periods, minlength=3)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rng", [None, 1])
@pytest.mark.parametrize("sizes", [(30, 0, 0), (0, 30, 0), (0, 0, 30)])
def test_a_history_of_one_period_is_its_newest(sizes, rng, mode):
    kept, shares = choose(30, 10, spread(*sizes), rng and generator(rng), mode=mode)
    assert kept.tolist() == list(range(20, 30)) and shares.tolist() == [10 * (size > 0) for size in sizes]


def test_the_age_alone_counts_and_not_the_clock():
    """Shifting all times, the target's too, changes no age; the caller's subtraction in float64 is exact."""
    times, target = np.sort(np.random.default_rng(0).integers(0, 200 * 86400, 50)), 200 * 86400
    results = [choose(50, 10, (target + shift) - (times + shift).astype(float)) for shift in (0, 10 ** 9, -5 * 10 ** 8)]
    for kept, shares in results[1:]:
        assert np.array_equal(kept, results[0][0]) and np.array_equal(shares, results[0][1])


@given(st.integers(0, 40), st.integers(0, 40), st.one_of(st.none(), st.integers(0, 3)))
def test_order_alone_is_ages_that_are_spread_by_thirds(n, budget, seed):
    age = np.array([{0: 1, 1: 30, 2: 200}[period] for period in period_of(n, None)]) * DAY
    rng = (lambda: None) if seed is None else lambda: generator(seed)
    for unknown in (None, np.where(np.arange(n) == n // 2, np.nan, age) if n else None):
        for mine, other in zip(choose(n, budget, unknown, rng()), choose(n, budget, age, rng())):
            assert np.array_equal(mine, other)


def test_evaluation_is_deterministic_and_spaced():
    age = spread(20, 30, 20)
    kept, _ = choose(70, 10, age)
    assert np.array_equal(kept, choose(70, 10, age)[0])
    assert kept.tolist() == [19, 29, 39, 49, 64, 65, 66, 67, 68, 69]
    assert choose(40, 10, spread(0, 20, 20))[0].tolist() == [19, 21, 23, 25, 27, 30, 32, 34, 36, 39]


def test_training_draws_evenly_and_by_its_generator():
    age, counts = spread(20, 20, 20), np.zeros(60)
    rng = np.random.default_rng(0)
    for _ in range(4000):
        kept, shares = choose(60, 10, age, rng)
        assert tuple(shares) == (6, 3, 1)
        counts[kept] += 1
    assert counts[59] == 4000
    for part, expected in ((slice(0, 20), 1 / 20), (slice(20, 40), 3 / 20), (slice(40, 59), 5 / 19)):
        assert abs(counts[part] / 4000 - expected).max() < 5 * (expected / 4000) ** .5
    draws = [choose(60, 10, age, np.random.default_rng([7, epoch, 5, 60]))[0].tolist() for epoch in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_samples_are_of_one_period_each():
    age, rng = spread(20, 20, 20), np.random.default_rng(0)
    seen = np.zeros(3)
    for _ in range(3000):
        kept, shares = choose(60, 10, age, rng, mode="samples")
        main = shares.argmax()
        seen[main] += 1
        assert shares[main] == (10 if main == 0 else 9) and (main == 0 or shares[0] == 1) and kept[-1] == 59
    assert abs(seen / 3000 - [.6, .3, .1]).max() < .03
    assert choose(60, 10, age, mode="samples")[0].tolist() == list(range(50, 60))


def test_a_drawn_period_with_too_few_behaviours_is_filled_up():
    for seed in range(30):
        _, shares = choose(44, 10, spread(20, 4, 20), generator(seed), mode="samples")
        assert tuple(shares) in {(10, 0, 0), (6, 4, 0), (1, 0, 9)}
        _, shares = choose(40, 10, spread(20, 20, 0), generator(seed), mode="samples")
        assert tuple(shares) in {(10, 0, 0), (1, 9, 0)}


def test_boundaries_and_days():
    age = np.array([90 * DAY + 1, 90 * DAY, 7 * DAY + 1, 7 * DAY])
    assert tuple(choose(4, 9, age)[1]) == (1, 2, 1)
    assert tuple(choose(4, 9, age, days=(1, 7))[1]) == (0, 1, 3)


@pytest.mark.parametrize("call, message", [
    (lambda: choose(-1, 3), "cannot keep 3 of -1"), (lambda: choose(3, -1), "cannot keep -1 of 3"),
    (lambda: choose(3, 2, mode="item"), "mode 'item'"), (lambda: choose(3, 2, days=(90, 7)), r"days \(90, 7\)"),
    (lambda: choose(3, 2, np.zeros(2)), r"shape \(2,\) for 3"),
    (lambda: choose(3, 2, np.array([5., 1, -1])), "-1.0 seconds"),
    (lambda: choose(3, 2, np.array([1., 5, 0])), "oldest first")])
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
