"""From atomic files to samples: RecBole's own, read exactly; whole histories; fingerprints that tell data apart."""

from __future__ import annotations

import pytest
import torch
from data_helpers import config_of, load, random_interactions, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset

from recbole_genrec.compat import atomic_files_read_by
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.dataset import GenRecDataset, Sequences
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError

SAMPLE = ("user_id", "item_id_list", "item_length", "item_id", "time_list")


def by_user(interactions) -> dict[str, list[str]]:
    """Each user's items in order of exact time; ties in the order of the file."""
    sequences: dict[str, list[str]] = {}
    for user, item, _ in sorted(interactions, key=lambda row: row[2]):
        sequences.setdefault(user, []).append(item)
    return sequences


def targets(data, part: int) -> list[tuple[str, str]]:
    """(user, target) of a part, by raw ids."""
    dataset, feat = data.dataset, data.parts[part].inter_feat
    users, items = (dataset.field2id_token[field][feat[field].numpy()] for field in ("user_id", "item_id"))
    return sorted(zip(users.tolist(), items.tolist()))


# ----------------------------------------------------------------------------------------------------- samples

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_samples_are_stock_recboles(tmp_path, seed, window, ties):
    """Small whole times fit into float32: train, valid and test rows are RecBole's, in RecBole's order."""
    rows = random_interactions(users=7, items=12, shortest=2, longest=9, seed=seed)
    if ties:
        rows = [(user, item, time // 2) for user, item, time in rows]
    data = write_dataset(tmp_path, rows)
    ours = GenRecDataset(config_of(data, MAX_ITEM_LIST_LENGTH=window)).build()
    stock = SequentialDataset(config_of(data, MAX_ITEM_LIST_LENGTH=window)).build()
    for our_part, stock_part in zip(ours, stock):
        assert len(our_part) == len(stock_part)
        for field in SAMPLE:
            assert torch.equal(our_part.inter_feat[field].double(), stock_part.inter_feat[field].double()), field


def test_order_follows_exact_times_where_float32_cannot_tell(tmp_path):
    """Raw seconds, one apart: float32 knows every 64th of them."""
    rows = [(user, f"i{(place * 7 + number) % 10}", 893286638.0 - place)
            for number, user in enumerate("abcd") for place in range(6)]
    data = write_dataset(tmp_path, rows)
    loaded = load(data, topk=[1], valid_metric="NDCG@1")
    sequences = by_user(rows)
    assert targets(loaded, 2) == sorted((user, items[-1]) for user, items in sequences.items())
    assert targets(loaded, 1) == sorted((user, items[-2]) for user, items in sequences.items())
    stock = SequentialDataset(config_of(data)).build()[2]
    stock_targets = stock.field2id_token["item_id"][stock.inter_feat["item_id"].numpy()]
    assert sorted(stock_targets) != sorted(items[-1] for items in sequences.values())  # why ours is needed


def test_users_with_few_interactions(tmp_path):
    """One: no sample. Two: training only. Three: training and test. Four: all."""
    rows = [(f"u{n}", f"i{place}", float(place)) for n in (1, 2, 3, 4) for place in range(n)]
    loaded = load(write_dataset(tmp_path, rows), topk=[1], valid_metric="NDCG@1")
    assert targets(loaded, 0) == [("u2", "i1"), ("u3", "i1"), ("u4", "i1")]
    assert targets(loaded, 1) == [("u4", "i2")]
    assert targets(loaded, 2) == [("u3", "i2"), ("u4", "i3")]


@pytest.mark.parametrize("rows, said", [
    ([("u", "a", 1.0), ("u", "b", 2.0), ("v", "c", 1.0), ("v", "d", 2.0)], "no valid"),
    ([("u", "a", 1.0), ("v", "b", 2.0), ("w", "c", 3.0), ("x", "d", 4.0)], "no train"),
    ([("u", item, time) for time, item in enumerate("ababab")], "catalogue"),
], ids=["two each", "one each", "two items"])
def test_a_dataset_too_small_is_a_users_mistake(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        load(write_dataset(tmp_path, rows, topk=[3], valid_metric="NDCG@3"))


# --------------------------------------------------------------------------------------------------- histories

def test_history_is_everything_before_the_target(tmp_path):
    """Also what the window of five no longer shows; never the target's own row."""
    rows = random_interactions(users=6, items=20, shortest=5, longest=15)
    loaded = load(write_dataset(tmp_path, rows))
    sequences, tokens = by_user(rows), loaded.dataset.field2id_token
    longest = 0
    for part, back in ((1, 2), (2, 1)):
        feat = loaded.parts[part].inter_feat
        history = loaded.dataset.sequences.history(feat[TARGET_ROW])
        for user, target, row in zip(feat["user_id"].tolist(), feat["item_id"].tolist(), history.tolist()):
            whole = sequences[tokens["user_id"][user]]
            assert [tokens["item_id"][item] for item in row if item] == whole[:-back]
            assert tokens["item_id"][target] == whole[-back] and target not in row
            longest = max(longest, len(whole))
    assert longest > 5 + 2


@st.composite
def sorted_sequences(draw):
    """Sequences of up to four users, times with ties and gaps, and some target rows."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    user, item, time = [], [], []
    for number, length in enumerate(lengths, 1):
        user += [number] * length
        item += draw(st.lists(st.integers(1, 9), min_size=length, max_size=length))
        time += sorted(draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=length, max_size=length)))
    unknown = draw(st.sets(st.integers(0, len(user) - 1)))
    time = [float("nan") if row in unknown else value for row, value in enumerate(time)]
    start = [user.index(number) for number in user]
    rows = draw(st.lists(st.integers(0, len(user) - 1), max_size=6))
    return user, item, time, start, rows


@settings(max_examples=200, deadline=None)
@given(sorted_sequences())
def test_history_and_ties_against_brute_force(case):
    user, item, time, start, rows = case
    sequences = Sequences(torch.tensor(user), torch.tensor(item), torch.tensor(time, dtype=torch.float64),
                          torch.tensor(start))
    wanted = torch.tensor(rows, dtype=torch.long)
    histories, tied = sequences.history(wanted), sequences.tied(wanted)
    assert len(histories) == len(tied) == len(rows)
    for row, history, is_tied in zip(rows, histories.tolist(), tied.tolist()):
        before = [item[other] for other in range(row) if user[other] == user[row]]
        assert history == before + [0] * (len(history) - len(before))
        # NaN equals nothing: an unknown time is not tied
        assert is_tied == (row > 0 and user[row - 1] == user[row] and time[row - 1] == time[row])


def test_tied_targets_of_a_dataset(tmp_path):
    rows = [("tied", "a", 1.0), ("tied", "b", 2.0), ("tied", "c", 3.0), ("tied", "d", 3.0),
            ("apart", "b", 1.0), ("apart", "c", 1.0), ("apart", "d", 1.0), ("apart", "a", 2.0),
            ("other", "a", 2.0), ("other", "c", 3.0), ("other", "b", 4.0), ("other", "d", 5.0)]
    for times, expected in (("time", {"tied": True, "apart": False, "other": False}),
                            (None, {"tied": False, "apart": False, "other": False})):
        loaded = load(write_dataset(tmp_path, rows, true_time_field=times), topk=[1], valid_metric="NDCG@1")
        feat = loaded.parts[2].inter_feat
        users = loaded.dataset.field2id_token["user_id"][feat["user_id"].numpy()].tolist()
        assert dict(zip(users, loaded.dataset.sequences.tied(feat[TARGET_ROW]).tolist())) == expected


# ------------------------------------------------------------------------------------------------------ titles

AWKWARD = ['"Quoted" at the start', 'an " open quote', "NA", "null", "nan", "NaN", "None", "N/A", "<NA>", "#N/A", "0",
           "1.50", "true", "commas, and; more", "emoji 😀 and ñ", "{braces}", "[PAD]", "a 'b' \\t c", "=1+1",
           "x" * 3000]


def test_awkward_titles_and_ids_survive(tmp_path):
    ids = ["NA", "null", "nan", "007", "7", "1e3", '"a', "[x]", *(f"i{n}" for n in range(len(AWKWARD) - 8))]
    titles = dict(zip(ids, AWKWARD))
    rows = [(user, item, float(place)) for user in ("nan", "NA", '"') for place, item in enumerate(ids)]
    dataset = load(write_dataset(tmp_path, rows, titles)).dataset
    catalogue = Catalogue.from_dataset(dataset)
    assert dict(zip(catalogue.item_tokens[1:], catalogue.titles[1:])) == titles
    assert catalogue.titles[0] == "" and catalogue.n_missing == 0 and dataset.user_num == 4


TITLES = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\x00"), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TITLES, min_size=5, max_size=8))
def test_any_title_comes_back_with_single_blanks(tmp_path, texts):
    titles = {f"i{number}": text for number, text in enumerate(texts)}
    rows = [(user, item, float(place)) for user in "uv" for place, item in enumerate(titles)]
    catalogue = Catalogue.from_dataset(load(write_dataset(tmp_path, rows, titles), topk=[1],
                                            valid_metric="NDCG@1").dataset)
    expected = {item: " ".join(text.split()) or f"item {item}" for item, text in titles.items()}
    assert dict(zip(catalogue.item_tokens[1:], catalogue.titles[1:])) == expected
    assert catalogue.n_missing == sum(not text.strip() for text in texts)


def few(tmp_path, titles, classes=None, **options):
    rows = [(user, item, float(place)) for user in "uv" for place, item in enumerate(titles)]
    data = write_dataset(tmp_path, rows, titles, classes, topk=[1], valid_metric="NDCG@1", **options)
    return Catalogue.from_dataset(load(data).dataset)


def test_title_format_and_what_is_missing(tmp_path):
    titles = {"a": "Heat", "b": "Solo", "c": "", "d": "  Two   blanks "}
    catalogue = few(tmp_path, titles, {"a": "1995", "b": "", "c": "1990", "d": "2001 2002"},
                    title_format="{title} ({class})")
    assert catalogue.titles == ["", "Heat (1995)", "Solo", "item c", "Two blanks (2001 2002)"]
    assert catalogue.n_missing == 1


@pytest.mark.parametrize("template", ["{title} {year}", "{title.real}", "{}", "{0}", "{title", "{title!z}",
                                      "{title:d}"])
def test_a_title_format_that_cannot_be_used(tmp_path, template):
    with pytest.raises(UserError):
        few(tmp_path, dict.fromkeys("abcd", "t"), title_format=template)


def test_a_title_of_numbers_is_refused(tmp_path):
    data = write_dataset(tmp_path, random_interactions(users=5))
    path = data.parent / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["item_id:token\ttitle:float\tclass:token_seq",
                               *(f"{line.split(chr(9))[0]}\t1.5\tx" for line in lines[1:])]) + "\n")
    with pytest.raises(UserError, match="float"):
        load(data)


def test_the_reader_is_only_replaced_while_reading():
    from recbole.data.dataset import dataset

    before = dataset.pd
    with pytest.raises(RuntimeError), atomic_files_read_by(None):
        assert dataset.pd is not before
        raise RuntimeError
    assert dataset.pd is before


@pytest.mark.parametrize("suffix, row, said", [
    ("inter", "\ti3\t7.0", "1 rows of tiny.inter have no user_id, the first is row 4 after the header"),
    ("inter", "u1\t\t7.0", "1 rows of tiny.inter have no item_id, the first is row 4 after"),
    ("item", "\tA title\tplain", "1 rows of tiny.item have no item_id"),
    ("inter", "u1\ti3\t", "have no finite time.*leave those rows out"),
    ("inter", "u1\ti3\tinf", "have no finite time"),
])
def test_a_row_without_an_id_or_a_time_is_a_users_mistake(tmp_path, suffix, row, said):
    """RecBole would drop it, or another one in its place."""
    data = write_dataset(tmp_path, random_interactions(users=6))
    path = tmp_path / "tiny" / f"tiny.{suffix}"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], row, *lines[4:]]) + "\n")
    with pytest.raises(UserError, match=said):
        GenRecDataset(config_of(data))


def test_repeated_rows_of_an_item_are_counted(tmp_path):
    data = write_dataset(tmp_path, random_interactions(users=6))
    path = tmp_path / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3].replace("story", "other story"), lines[3]]) + "\n")
    dataset = GenRecDataset(config_of(data))
    dataset.build()
    assert dataset.duplicate_items == 2 and dataset.dropped_interactions == 0
    assert not any("other" in title for title in Catalogue.from_dataset(dataset).titles)


# ------------------------------------------------------------------------------------------------ fingerprints

ROWS = random_interactions(users=9, items=14, seed=5)
LIST = {f"i{item}": f"Title {item}" for item in range(14)}


def prints(folder, rows=ROWS, titles=LIST, model: str = "Pop", **options) -> tuple[str, str]:
    loaded = load(write_dataset(folder, rows, titles), model=model, **options)
    return loaded.fingerprint, loaded.split_fingerprint


def test_fingerprints_are_those_of_the_data_not_of_the_model(tmp_path):
    expected = prints(tmp_path)
    for model in ("SASRec", "FDSA", "S3Rec", "GenRec", "GRU4Rec"):
        assert prints(tmp_path, model=model, **({"num_beams": 10} if model == "GenRec" else {})) == expected
    assert prints(tmp_path, seed=7, MAX_ITEM_LIST_LENGTH=3) == expected


@pytest.mark.parametrize("place", [0, 2, -2, -1], ids=["first", "middle", "valid", "test"])
def test_another_item_anywhere_in_a_sequence_is_another_split(tmp_path, place):
    """The universe stays the same: only one interaction differs."""
    mine = sorted((row for row in ROWS if row[0] == "u3"), key=lambda row: row[2])
    spare = next(item for item in LIST if item not in {item for _, item, _ in mine})
    changed = [(user, spare, time) if (user, item, time) == mine[place] else (user, item, time)
               for user, item, time in ROWS]
    before, after = prints(tmp_path), prints(tmp_path, changed)
    assert before[0] != after[0] and before[1] != after[1]


def test_a_title_is_data_but_no_split(tmp_path):
    before, after = prints(tmp_path), prints(tmp_path, titles={**LIST, "i3": "Another title"})
    assert before[0] != after[0] and before[1] == after[1]


def test_an_item_that_nobody_took_is_another_universe(tmp_path):
    before, after = prints(tmp_path), prints(tmp_path, titles={**LIST, "new": "Never taken"})
    assert before[0] != after[0] and before[1] != after[1]


def test_the_order_within_a_tie_is_another_split(tmp_path):
    tied = [(user, item, time // 2) for user, item, time in sorted(ROWS, key=lambda row: (row[0], row[2]))]
    by_half = sorted(ROWS, key=lambda row: (row[0], row[2] // 2, -row[2]))
    other = [(user, item, time // 2) for user, item, time in by_half]
    before, after = prints(tmp_path, tied), prints(tmp_path, other)
    assert before[0] != after[0] and before[1] != after[1]


def test_a_time_that_moves_nothing_is_no_other_split(tmp_path):
    later = [(user, item, time + 0.25) for user, item, time in ROWS]
    before, after = prints(tmp_path), prints(tmp_path, later)
    assert before[0] != after[0] and before[1] == after[1]
