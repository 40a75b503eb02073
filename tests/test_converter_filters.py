"""Filters against brute force, seeded orders that know no file order, and expectations."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import date
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from converter_helpers import bytes_of, column, convert, fails, header, put, report, sequences_of, table, titles_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_converters.corpus import TITLE, UNKNOWN_TIME, Corpus, occurrence
from dataset_converters.filtering import Filters, apply
from dataset_converters.ordering import break_ties, hash_ids, shuffle_items
from dataset_converters.reading import ConversionError

Row = tuple[str, str, int, float]  # user, item, time, rating
rows_of = st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcde"), st.integers(0, 5),
                             st.sampled_from([1.0, 2.5, 4.0])), min_size=1, max_size=40)  # fmt: skip


def corpus_of(rows: list[Row], titles: dict[str, str] | None = None, rated: bool = True) -> Corpus:
    """As a source builds it: by first appearance, then sorted by user and time."""
    users, items = (list(dict.fromkeys(row[place] for row in rows)) for place in (0, 1))
    return Corpus(
        pa.array(users), pa.array(items),
        np.array([users.index(row[0]) for row in rows], dtype=np.int32),
        np.array([items.index(row[1]) for row in rows], dtype=np.int32),
        np.array([row[2] for row in rows], dtype=np.int64),
        np.array([row[3] for row in rows], dtype=np.float32) if rated else None,
        columns={TITLE: titles or {}},
    ).in_time_order()  # fmt: skip


def rows_in(corpus: Corpus) -> list[Row]:
    users, items = corpus.users.to_pylist(), corpus.items.to_pylist()
    rating = np.zeros(len(corpus.user)) if corpus.rating is None else corpus.rating
    return [(users[u], items[i], int(t), float(r))
            for u, i, t, r in zip(corpus.user, corpus.item, corpus.time, rating)]  # fmt: skip


def in_order(rows: list[Row]) -> list[Row]:
    users = list(dict.fromkeys(row[0] for row in rows))
    return sorted(rows, key=lambda row: (users.index(row[0]), row[2]))


def filtered(rows: list[Row], **options) -> list[Row]:
    """Rows after the filters, [] where nothing is left."""
    try:
        corpus, steps = apply(corpus_of(rows), Filters(**options))
    except ConversionError as error:
        assert "no interactions are left" in str(error)
        return []
    assert set(corpus.users.to_pylist()) == {row[0] for row in rows_in(corpus)}, "no user without rows"
    assert set(corpus.items.to_pylist()) == {row[1] for row in rows_in(corpus)}, "no item without rows"
    assert steps[-1]["interactions"] == len(corpus.user) and steps[0]["interactions"] == len(rows)
    return rows_in(corpus)


@settings(max_examples=150, deadline=None)
@given(rows_of, st.integers(1, 4), st.integers(1, 4))
def test_core_is_the_largest_set_of_rows_in_which_both_hold(rows: list[Row], users: int, items: int) -> None:
    left = in_order(rows)
    while True:
        by_user, by_item = (Counter(row[place] for row in left) for place in (0, 1))
        fewer = [row for row in left if by_user[row[0]] >= users and by_item[row[1]] >= items]
        if len(fewer) == len(left):
            break
        left = fewer
    assert filtered(rows, user_core=users, item_core=items) == left
    assert filtered(rows, user_core=users) == [
        row for row in in_order(rows) if Counter(r[0] for r in rows)[row[0]] >= users]


@settings(max_examples=100, deadline=None)
@given(rows_of, st.sampled_from(["keep", "first", "last"]), st.sampled_from([None, 2.5, 4.0]))
def test_ratings_and_repeats(rows: list[Row], repeats: str, least: float | None) -> None:
    expected = [row for row in in_order(rows) if least is None or row[3] >= least]
    if repeats != "keep":
        seen = expected if repeats == "first" else expected[::-1]
        kept, once = set(), []
        for row in seen:
            if row[:2] not in kept:
                kept.add(row[:2])
                once.append(row)
        expected = once if repeats == "first" else once[::-1]
    assert filtered(rows, repeats=repeats, min_rating=least) == expected


def test_occurrence_counts_earlier_rows_of_the_pair() -> None:
    corpus = corpus_of([("u", "a", 1, 1), ("u", "b", 2, 1), ("v", "a", 1, 1), ("u", "a", 3, 1), ("u", "a", 4, 1)])
    assert occurrence(corpus).tolist() == [0, 0, 1, 2, 0]


def test_days_are_utc_and_inclusive() -> None:
    day = 86400
    corpus = corpus_of([("u", str(n), time, 1.0) for n, time in enumerate((day - 1, day, 2 * day - 1, 2 * day))])
    window = Filters(since=date(1970, 1, 2), until=date(1970, 1, 2))
    assert [row[2] for row in rows_in(apply(corpus, window)[0])] == [day, 2 * day - 1]
    corpus.time *= 1000
    corpus.per_second = 1000
    assert [row[2] for row in rows_in(apply(corpus, window)[0])] == [day * 1000, (2 * day - 1) * 1000]
    corpus.time[0] = UNKNOWN_TIME
    assert len(rows_in(apply(corpus, Filters(until=date(2000, 1, 1)))[0])) == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_rating": 1}, "--min-rating needs ratings"),
        ({"since": date(2000, 1, 1)}, "--since and --until need timestamps"),
        ({"user_core": 9}, "no interactions are left after --user-core 9 --item-core 1"),
        ({"drop_untitled": True}, "no interactions are left after --drop-untitled"),
        ({"min_title_coverage": 0.01}, "0 of 1 items have a title"),
    ],
)
def test_filters_that_cannot_hold(options: dict, text: str) -> None:
    corpus = corpus_of([("u", "a", UNKNOWN_TIME, 1.0)], rated=False)
    with pytest.raises(ConversionError, match=text):
        apply(corpus, Filters(**options))


def test_untitled_items_go_and_coverage_is_measured_at_the_end() -> None:
    rows = [("u", item, 1, 1.0) for item in "abcd"]
    corpus = corpus_of(rows, {"a": "A", "b": "B", "c": ""})
    titled, _ = apply(corpus, Filters(drop_untitled=True, min_title_coverage=1))
    assert [row[1] for row in rows_in(titled)] == ["a", "b"]
    apply(corpus, Filters(min_title_coverage=0.5))
    with pytest.raises(ConversionError, match="2 of 4 items"):
        apply(corpus, Filters(min_title_coverage=0.51))


def test_samples_are_seeded_and_independent_of_the_order_of_the_file() -> None:
    rows = [(f"u{u}", f"i{i}", u * i, 1.0) for u, i in itertools.product(range(200), range(40))]
    for name, place in (("sample_users", 0), ("sample_items", 1)):
        def chosen(amount, seed=1, rows=rows, name=name, place=place):
            return {row[place] for row in filtered(rows, **{name: amount, "sample_seed": seed})}

        some = chosen(20)
        assert len(some) == 20 and chosen(20, rows=rows[::-1]) == some != chosen(20, seed=2)
        assert chosen(10) < some and chosen(1.0) == {row[place] for row in rows} and len(chosen(1)) == 1
        share = chosen(0.5)
        assert 10 <= len(share) <= 130 and share != chosen(0.5, seed=2)
        assert chosen(0.25) < share, "a larger share holds the smaller"
    assert len(filtered(rows, sample_users=20, sample_items=10)) == 200


# --- orders


@settings(max_examples=80, deadline=None)
@given(rows_of, st.randoms(use_true_random=False), st.integers(0, 3))
def test_hash_order_is_of_the_data_not_of_the_file(rows: list[Row], dice, seed: int) -> None:
    rows = [row[:3] + (1.0,) for row in rows]
    mixed = rows[:]
    dice.shuffle(mixed)
    one, other = (break_ties(corpus_of(some), seed) for some in (rows, mixed))
    assert sorted(rows_in(one)) == sorted(rows)
    assert [row[::2] for row in rows_in(one)] == [row[::2] for row in in_order(rows)], "only ties move"
    for user in {row[0] for row in rows}:
        assert [r for r in rows_in(one) if r[0] == user] == [r for r in rows_in(other) if r[0] == user]


def test_hash_order_looks_random_and_differs_by_user_and_seed() -> None:
    rows = [(f"u{u}", f"i{i:02}", 1, 1.0) for u in range(300) for i in range(12)]
    orders = {}
    for seed in (1, 2):
        for user, item, _, _ in rows_in(break_ties(corpus_of(rows), seed)):
            orders.setdefault((seed, user), []).append(item)
    assert len(set(map(tuple, orders.values()))) == 600
    for place in (0, 11):
        counts = Counter(order[place] for order in orders.values())
        assert len(counts) == 12 and max(counts.values()) < 90, "each of 12 items 50 times, give or take"


def test_shuffled_ids(tmp_path: Path) -> None:
    files = {"--sequences": [f"u{u} " + " ".join(f"i{(u + k) % 50}" for k in range(20)) for u in range(50)],
             "--titles": [f"i{n}\tTitle {n}" for n in range(50)]}  # fmt: skip
    argv = [part for option, lines in files.items() for part in (option, put(tmp_path / option, lines))]
    assert convert(tmp_path, "sequences", *argv, name="plain") == 0
    assert convert(tmp_path, "sequences", *argv, "--item_ids", "shuffled") == 0
    assert header(tmp_path, "item")[-1] == "source_id:token"
    source = column(tmp_path, "item", "source_id:token")
    assert list(source) == [str(n) for n in range(1, 51)]
    assert sorted(source.values()) == sorted(f"i{n}" for n in range(50))
    assert {source[item]: title for item, title in titles_of(tmp_path).items()} == titles_of(tmp_path, "plain")
    assert {user: [source[row[0]] for row in rows] for user, rows in sequences_of(tmp_path).items()} == {
        user: [row[0] for row in rows] for user, rows in sequences_of(tmp_path, "plain").items()}
    rows = table(tmp_path, "inter")
    assert [int(row[1]) for row in rows] == sorted(int(row[1]) for row in rows), "items appear in order of id"
    # "The largest id so far + 1" is the next item of the plain data, and of no shuffled user more than by chance.
    steps = [int(b[0]) - int(a[0]) for own in sequences_of(tmp_path).values() for a, b in itertools.pairwise(own)]
    assert sum(step == 1 for step in steps) < 0.1 * len(steps)
    first = bytes_of(tmp_path)
    assert convert(tmp_path, "sequences", *argv, "--item_ids", "shuffled", "--force") == 0
    assert bytes_of(tmp_path) == first
    assert convert(tmp_path, "sequences", *argv, "--item_ids", "shuffled", "--id-seed", "5", "--force") == 0
    assert column(tmp_path, "item", "source_id:token") != source


def test_ids_are_hashed_for_ever_the_same() -> None:
    # Another hash would be another benchmark under the same name.
    assert hash_ids(pa.array(["a", "é"]), "tie item", 2023).tolist() == [
        int.from_bytes(blake2b(b"tie item\x002023\x00" + text.encode(), digest_size=8).digest(), "big")
        for text in "aé"]
    corpus = corpus_of([("u", item, 1, 1.0) for item in "abcdef"])
    assert "".join(shuffle_items(corpus, 2023).columns["source_id:token"].values()) == "dfaebc"
    assert "".join(row[1] for row in rows_in(break_ties(corpus, 2023))) == "bdeacf"


# --- the command line

SEQUENCES = ["u a b c a", "v a b", "w c"]


def _sequences(folder: Path, *options: str, name: str = "data") -> int:
    return convert(folder, "sequences", "--sequences", put(folder / "s", SEQUENCES), "--titles",
                   put(folder / "t", ["a\tA", "b\tB"]), "--timestamps",
                   put(folder / "w", ["u 1 2 86400 86401", "v 1 1", "w 5"]), *options, name=name)  # fmt: skip


def test_steps_are_on_record_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--k-core", "2", "--item_core", "1", "--repeats", "first", "--until", "1970-01-02", "--drop-untitled"]
    assert _sequences(tmp_path, *options) == 0
    assert [tuple(step.values()) for step in report(tmp_path)["filters"]] == [
        ("source", 3, 3, 7), ("--until 1970-01-02", 3, 3, 7), ("--repeats first", 3, 3, 6),
        ("--drop-untitled", 2, 2, 4), ("--user-core 2 --item-core 1", 2, 2, 4)]
    assert "--drop-untitled: 2 users, 2 items, 4 interactions" in capsys.readouterr().out
    assert [row[:3] for row in table(tmp_path, "inter")] == [
        ["u", "a", "1"], ["u", "b", "2"], ["v", "a", "1"], ["v", "b", "2"]]


def test_expected_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sequences(tmp_path, "--expect", "users=3,interactions=6,read=7", "--repeats", "first") == 0
    capsys.readouterr()
    wrong = _sequences(tmp_path, "--expect", "users=4,items=3,interactions=8", name="other")
    fails(capsys, wrong, "3 users instead of 4, 7 interactions instead of 8")
    assert not (tmp_path / "out" / "other").exists() and len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize(
    "option",
    ["--expect=users", "--expect=users=x", "--expect=cats=3", "--expect=", "--since=yesterday", "--since=2019-02-30",
     "--since=20190101", "--sample-users=0", "--sample-users=1.5", "--sample-users=-1", "--k-core=0", "--k-core=2.5",
     "--min-title-coverage=2", "--repeats=some", "--item_ids=random", "--min-rating=good", "--min-r=3"],
)  # fmt: skip
def test_options_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as stop:
        _sequences(tmp_path, option)
    fails(capsys, int(stop.value.code or 0), option.partition("=")[0].lstrip("-"))
