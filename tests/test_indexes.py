"""Every item index: all items told apart, the same whatever must not show, and no more known than is declared."""

from __future__ import annotations

import gzip
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from converter_helpers import SHARED
from data_helpers import load, random_interactions, write_dataset
from test_index import assert_distinct, byte_level, catalogue_of, lower_casing, sentencepiece_like

from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.leakage import index_leak
from recbole_genrec.errors import UserError
from recbole_genrec.index import Interactions, ItemIndex, Material, build_index, reads, register, registry
from recbole_genrec.index.clustering import nearest_with_room
from recbole_genrec.index.codes import spell
from recbole_genrec.index.registry import find_index, gather
from recbole_genrec.settings import property_file, read_yaml

INDEXES = ["collaborative", "semantic", "sequential", "shuffled_id", "title"]
SEEDED = ["collaborative", "semantic", "shuffled_id"]
HONEST = [*SEEDED, "title"]
OPTIONS = {"semantic_levels": 2, "semantic_codes": 4, "semantic_model": None, "collaborative_children": 4}
GROUPS = ["lego city", "wooden train", "board game", "paint brush"]


def test_the_shipped_indexes_are_these_and_each_says_what_it_is():
    assert sorted(registry._shipped()) == INDEXES
    assert all(sys.modules[find_index(name).__module__].__doc__ for name in INDEXES)


pytestmark = pytest.mark.usefixtures("no_index_stays")


def told(users: list[list[int]]) -> Interactions:
    return Interactions(np.array([user for user, items in enumerate(users, 1) for _ in items], dtype=np.int64),
                        np.array([item for items in users for item in items], dtype=np.int64))


def material_of(titles: list[str], users: list[list[int]], tokenizer=byte_level, **given) -> Material:
    """Training: all but the last two items of each user."""
    return Material(catalogue_of(titles), tokenizer(titles), **{
        "seed": 1, "options": OPTIONS, "training": told([items[:-2] for items in users]), "everything": told(users),
        **given})


def some(items: int = 40, users: int = 60, seed: int = 0) -> tuple[list[str], list[list[int]]]:
    """Titles of four groups, and users who mostly stay within one group (item modulo 4)."""
    dice = random.Random(seed)
    titles = [f"{GROUPS[item % 4]} {item * 37 % 91}" for item in range(1, items + 1)]
    return titles, [dice.sample(range(1 + user % 4, items + 1, 4), 7) + dice.sample(range(1, items + 1), 2)
                    for user in range(users)]


def by_raw_id(index: ItemIndex, catalogue: Catalogue) -> dict[str, tuple[str, list[int]]]:
    return {raw: (index.texts[item], index.spelling(item)) for item, raw in enumerate(catalogue.item_tokens) if item}


# ------------------------------------------------------------------------------------------------------ every index

@pytest.mark.parametrize("lead", ["", " ", "item_"])
@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece_like], ids=["bytes", "pieces"])
@pytest.mark.parametrize("name", INDEXES)
def test_every_item_is_told_apart_and_can_be_read_back(name, tokenizer, lead):
    titles, users = some()
    material = material_of([*titles, *"0123456789", "item_"], users, tokenizer, lead=lead)
    index = build_index(name, material)
    assert_distinct(index)
    assert index.trie.n_items == len(titles) + 11
    assert index.report["items"] == index.trie.n_items and index.report["item_index"] == name
    assert index.report["leaky"] is (name == "sequential")
    if name != "title" and tokenizer is byte_level:
        decoded = [material.tokenizer.decode(index.spelling(item)[:-1]).strip() for item in range(1, index.n_items)]
        assert decoded == index.texts[1:]


@pytest.mark.parametrize("name", INDEXES)
def test_the_terminator_that_a_model_names_ends_every_spelling(name):
    material = material_of(*some())
    end = material.tokenizer.eos_token_id
    assert_distinct(index := build_index(name, replace(material, terminator=end)))
    assert index.terminator == end


@pytest.mark.parametrize("name", INDEXES)
def test_the_same_seed_spells_alike_and_another_one_otherwise(name):
    material = material_of(*some())
    prints = [build_index(name, replace(material, seed=seed)).fingerprint for seed in (1, 1, 2, 2**32 - 1)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == (3 if name in SEEDED else 1)


@pytest.mark.parametrize("titles, users", [
    (["Lego"], [[1, 1, 1]]), (["Lego", "Duplo"], [[1, 2, 1, 2]]), (["Same"] * 9, [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ([""] * 6, [[1, 2, 3, 4]]), (["!", "?", "..."] * 3, [[9, 8, 7, 6]]), ([*"abcdefghijkl"], [[3, 3, 4, 4, 5, 6]]),
    ([*"abcdefghijkl"], [[1, 2]]), ([*"abcdefghijkl"], [list(range(1, 13))]),
    ([*"abcdefghijkl"], [[item] * 3 for item in range(1, 13)]), ([f"t{n}" for n in range(70)], [[1, 2, 3, 4]]),
], ids=["one", "two", "equal", "empty", "no word", "few seen", "no training", "one user", "no pair", "many unseen"])
@pytest.mark.parametrize("name", INDEXES)
def test_small_and_odd_catalogues(name, titles, users):
    index = build_index(name, material_of(titles, users))
    assert_distinct(index)
    assert index.trie.n_items == len(titles)
    bare = Catalogue(["", *titles], ["[PAD]", *(f"B{n}" for n in range(len(titles)))], 0)  # "" is no title of a file's
    if name != "title":
        assert_distinct(build_index(name, replace(material_of(titles, users), catalogue=bare)))


def test_a_tokenizer_that_cannot_spell_numbers_is_refused():
    material = material_of(["Lego", "Duplo"] * 60, [[1, 2, 3, 4]], lower_casing)
    with pytest.raises(UserError, match="'1..' is not told from another item"):
        build_index("shuffled_id", material)


# --------------------------------------------------------------------------- what must not show in a spelling

def dataset_of(folder: Path, rows, titles: dict[str, str]):
    return load(write_dataset(folder, rows, titles), "Pop", item_attribute=None)


def spelled(name: str, data, tokenizer) -> dict[str, tuple[str, list[int]]]:
    catalogue = Catalogue.from_dataset(data.dataset)
    material = gather(name, Material(catalogue, tokenizer, 5, options=OPTIONS), data.parts[0])
    return by_raw_id(build_index(name, material), catalogue)


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, float]]:
    return random_interactions(60, 40, 6, 10)


TITLES = {f"i{n}": f"{GROUPS[n % 4]} {n * 37 % 91}" for n in range(45)}  # five of them are nobody's
TOKENIZER = byte_level(list(TITLES.values()))


def test_what_is_held_out_does_not_show(rows, tmp_path):
    """Other validation and test items for every user: only the leaky index spells otherwise."""
    last = Counter(user for user, _, _ in rows)
    dice = random.Random(3)
    other = [(user, dice.choice(list(TITLES)) if time > last[user] - 2 else item, time) for user, item, time in rows]
    before, after = (dataset_of(tmp_path / name, lines, TITLES) for name, lines in (("a", rows), ("b", other)))
    assert before.split_fingerprint != after.split_fingerprint
    for name in HONEST:
        assert spelled(name, before, TOKENIZER) == spelled(name, after, TOKENIZER), name
    assert spelled("sequential", before, TOKENIZER) != spelled("sequential", after, TOKENIZER)


def test_the_order_of_the_file_does_not_show(rows, tmp_path):
    dice = random.Random(4)
    shuffled = dice.sample(rows, len(rows)), dict(dice.sample(sorted(TITLES.items()), len(TITLES)))
    before, after = dataset_of(tmp_path / "a", rows, TITLES), dataset_of(tmp_path / "b", *shuffled)
    assert list(before.dataset.field2id_token["item_id"]) != list(after.dataset.field2id_token["item_id"])
    for name in HONEST:
        assert spelled(name, before, TOKENIZER) == spelled(name, after, TOKENIZER), name
    assert spelled("sequential", before, TOKENIZER) != spelled("sequential", after, TOKENIZER)


def test_training_interactions_are_those_of_the_training_part(rows, tmp_path):
    data = dataset_of(tmp_path, [*rows, ("two", "i1", 1.0), ("two", "i2", 2.0), ("one", "i3", 1.0)], TITLES)
    raw = data.dataset.field2id_token
    found, everything = Interactions.of_training(data.parts[0]), Interactions.of_everything(data.parts[0])
    in_time = sorted(rows, key=lambda row: row[2])
    for user in dict.fromkeys(user for user, _, _ in rows):
        mine = [item for other, item, _ in in_time if other == user]
        number = raw["user_id"].tolist().index(user)
        assert raw["item_id"][found.item[found.user == number]].tolist() == mine[:-2]
        assert raw["item_id"][everything.item[everything.user == number]].tolist() == mine
    number = raw["user_id"].tolist().index("two")  # a user with two interactions has a training row only
    assert raw["item_id"][found.item[found.user == number]].tolist() == ["i1", "i2"]
    assert len(everything.item) == len(rows) + 3


def test_an_index_is_given_what_it_declares_and_no_more():
    given, material = {}, material_of(*some())

    def build(name):
        def build(material: Material) -> ItemIndex:
            given[name] = (material.training is not None, material.everything is not None)
            return spell(material, [[item] for item in range(1, 41)], {})
        return build

    for name, make in (("sees_nothing", build), ("sees_training", lambda name: reads("training")(build(name))),
                       ("sees_everything", lambda name: reads("everything")(build(name)))):
        register(name, make(name))
        assert build_index(name, material).report["leaky"] is (name == "sees_everything")
    assert given == {"sees_nothing": (False, False), "sees_training": (True, False), "sees_everything": (False, True)}
    with pytest.raises(ValueError, match="'test'"):
        reads("test")


@pytest.mark.parametrize("name, what", [("collaborative", "training"), ("sequential", "everything")])
def test_what_is_missing_is_refused_in_one_sentence(name, what):
    material = material_of(*some(), training=None, everything=None)
    with pytest.raises(UserError, match=f"item_index={name} is made from {what} interactions, and none are given"):
        build_index(name, material)
    part = SimpleNamespace()  # RecBole's own data set keeps no sequences
    assert gather(name, material, part).training is gather(name, material, part).everything is None


# ---------------------------------------------------------------------------------------- what each one means

def test_shuffled_ids_are_the_numbers_from_one():
    index = build_index("shuffled_id", material_of(*some()))
    assert sorted(index.numbers[1:]) == list(range(1, 41)) and index.numbers[0] == -1
    assert abs(np.corrcoef(index.numbers[1:], np.arange(40))[0, 1]) < 0.4


def test_sequential_ids_count_appearances_user_by_user():
    index = build_index("sequential", material_of([*"abcdef"], [[5, 2, 5, 1], [3, 2, 5]]))
    assert [index.numbers[item] for item in (5, 2, 1, 3)] == [1, 2, 3, 4]
    assert sorted(index.numbers[[4, 6]]) == [5, 6]


def same_code(index: ItemIndex, pairs: np.ndarray, places: int = 1) -> float:
    codes = np.array([" ".join(text.split(" ")[:places]) for text in index.texts])
    return float((codes[pairs[:, 0]] == codes[pairs[:, 1]]).mean())


@pytest.mark.parametrize("name", ["semantic", "collaborative"])
def test_items_that_belong_together_share_codes(name):
    titles, users = some(120, 300)
    options = {**OPTIONS, "collaborative_children": 10}
    pairs = np.array([(a, b) for a in range(1, 121) for b in range(1, a)])
    together = (pairs[:, 0] - pairs[:, 1]) % 4 == 0
    if name == "semantic":  # titles alone: users say something else
        users = [random.Random(user).sample(range(1, 121), 8) for user in range(300)]
    else:  # users alone: all titles are alike
        titles = ["Toy"] * 120
    index = build_index(name, material_of(titles, users, options=options))
    assert same_code(index, pairs[together]) > 3 * same_code(index, pairs[~together])
    assert len({text.split()[0] for text in index.texts[1:]}) >= 4


def test_equal_titles_share_their_codes_and_get_a_last_one():
    titles = ["lego city police"] * 5 + ["wooden train"] * 2 + ["board game", "paint"]
    index = build_index("semantic", material_of(titles, [[1, 2, 3, 4]]))
    assert index.report["items_sharing_codes"] == 7 and index.report["codes_per_level"][0] == 4
    codes = [text.rsplit(" ", 1) for text in index.texts[1:]]
    assert len({stem for stem, _ in codes[:5]}) == 1 and {last for _, last in codes[:5]} == set("01234")
    depth = len(index.report["codes_per_level"])
    assert [len(text.split()) - depth for text in index.texts[1:]] == [1] * 7 + [0] * 2


def test_levels_and_codes_are_settings():
    titles, users = some(200)
    for levels, codes in ((1, 8), (3, 2), (4, 5)):
        options = {**OPTIONS, "semantic_levels": levels, "semantic_codes": codes}
        report = build_index("semantic", material_of(titles, users, options=options)).report
        assert len(report["codes_per_level"]) == levels and max(report["codes_per_level"]) == codes


def test_no_node_has_more_children_than_allowed_and_paths_stay_short():
    titles, users = some(100, 100)
    for most in (2, 5, 40):
        options = {**OPTIONS, "collaborative_children": most}
        index = build_index("collaborative", material_of(titles, users, options=options))
        paths = [tuple(text.split()) for text in index.texts[1:]]
        below = Counter(path[:depth] for path in {path[:end] for path in paths for end in range(1, len(path) + 1)}
                        for depth in [len(path) - 1])
        assert max(below.values()) <= most
        assert index.report["longest_path"] == max(map(len, paths)) <= 2 + 3 * np.log(100) / np.log(most)


def test_items_without_a_link_stand_together():
    users = [[*range(1, 16), 1, 1], [*range(8, 16), *range(1, 4), 1, 1]]
    index = build_index("collaborative", material_of([f"t{n}" for n in range(30)], users))
    assert index.report["items_not_in_training"] == 15
    assert len({text.split()[0] for text in index.texts[16:]}) == 1
    assert not {text.split()[0] for text in index.texts[16:]} & {text.split()[0] for text in index.texts[1:16]}


def test_a_full_centre_keeps_its_nearest():
    distance = np.array([[0.1, 5], [0.3, 4], [0.2, 9], [8, 0.5]])
    assert nearest_with_room(distance, 2).tolist() == [0, 1, 0, 1]
    assert nearest_with_room(distance, 4).tolist() == [0, 0, 0, 1]


# ------------------------------------------------------------------------------------------ sentence-transformers

def test_vectors_of_a_model_on_this_machine(tmp_path, monkeypatch):
    titles, users = some()
    options = {**OPTIONS, "semantic_model": str(tmp_path)}
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as where it is not installed
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        build_index("semantic", material_of(titles, users, options=options))

    class SentenceTransformer:
        def __init__(self, path, local_files_only):
            assert path == str(tmp_path) and local_files_only

        def encode(self, texts, show_progress_bar):
            return np.array([[len(text), text.count("o")] for text in texts], dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=SentenceTransformer))
    assert_distinct(build_index("semantic", material_of(titles, users, options=options)))
    with pytest.raises(UserError, match="semantic_model=nowhere is no folder"):
        build_index("semantic", material_of(titles, users, options={**OPTIONS, "semantic_model": "nowhere"}))


# ------------------------------------------------------------------------------------------------- refused, probed

def test_an_index_that_forgets_items_is_refused():
    register("forgetful", lambda material: ItemIndex.from_spellings([[1], [2]], ["", "a", "b"], 0, {}))
    register("wrong", lambda material: [[1], [2]])
    for name in ("forgetful", "wrong"):
        with pytest.raises(UserError, match="does not spell the 40 items"):
            build_index(name, material_of(*some()))


def test_the_probe_flags_sequential_ids_and_not_shuffled_ones(tmp_path):
    """Users one after another, most items new to all: the next number is the next item."""
    dice = random.Random(1)
    rows = [(f"u{user}", f"i{user * 5 + place if dice.random() < 0.8 else dice.randrange(1500)}", float(place))
            for user in range(300) for place in range(5)]
    rows = list({(user, item): (user, item, time) for user, item, time in rows}.values())
    data = load(write_dataset(tmp_path, rows), "Pop")
    catalogue = Catalogue.from_dataset(data.dataset)
    for name, flagged in (("sequential", True), ("shuffled_id", False), ("title", False)):
        material = gather(name, Material(catalogue, TOKENIZER, 1, options=OPTIONS), data.parts[0])
        numbers = build_index(name, material).numbers
        assert (numbers is None) == (name == "title")
        if numbers is not None:
            leak = index_leak(data.dataset, data.parts[2], numbers)
            assert leak["flagged"] is flagged and (leak["hit"] > 0.3) is flagged


def test_titles_that_are_numbers_are_probed_too():
    catalogue = Catalogue(["", "item 7", "item 12"], ["[PAD]", "7", "12"], 2)
    assert build_index("title", Material(catalogue, TOKENIZER)).numbers.tolist() == [-1, 7, 12]


# ------------------------------------------------------------------------------------------------------ real data

@pytest.mark.slow
@pytest.mark.parametrize("name, items", [("amazon-toys", 11_924), ("yelp", 20_033)])
def test_real_catalogues_through_every_index(name, items):
    """Next items of users, held out, share first codes more often than any two items do."""
    folder = SHARED / name
    if not (folder / "user_sequences.txt.gz").is_file():
        pytest.skip(f"needs {name} under $GENREC_SHARED/datasets")

    def lines(file: str) -> list[str]:
        with gzip.open(folder / file, "rt", encoding="utf-8", newline="\n") as text:
            return text.read().splitlines()

    users = [line.split()[1:] for line in lines("user_sequences.txt.gz")]
    raw = list(dict.fromkeys(item for row in users for item in row))
    number = {item: place for place, item in enumerate(raw, 1)}
    users = [[number[item] for item in row] for row in users]
    titles = dict(line.split("\t") for line in lines("item_titles.tsv.gz"))
    catalogue = Catalogue(["", *(" ".join(titles[item].split()) or f"item {item}" for item in raw)], ["[PAD]", *raw], 0)
    options = read_yaml(property_file("model", "GenRec"))
    material = Material(catalogue, train_tokenizer(catalogue.titles[1:2000], 2000), 2023, options=options,
                        training=told([row[:-2] for row in users]), everything=told(users))
    held_out = np.array([row[-2:] for row in users])
    at_random = np.stack([held_out[:, 0], np.random.default_rng(0).permutation(held_out[:, 1])], axis=1)
    for index in (build_index(kind, material) for kind in SEEDED):
        assert_distinct(index)
        assert index.trie.n_items == items and index.report["tokens_max"] < 30
        if index.numbers is None:
            assert same_code(index, held_out) > 2 * same_code(index, at_random)
