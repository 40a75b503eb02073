"""From a raw dump through the converter into our RecBole data set: ids, titles and order as they went in."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
import yaml
from converter_helpers import convert, put
from data_helpers import SETTINGS, config_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_converters.titles import clean_title, natural_order
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.dataset import GenRecDataset

# What readers of tables stumble over: quotes, words for "missing", separators, line breaks, any Unicode.
TITLES = ['"Hey', '"', '""', "NA", "null", "nan", "None", "a\tb", "a\nb", "a\r\nb", "a\u2028b", "\\N", "a,b;c|d::e",
          "'x'", "#1", "1e5", " lead", "Café ☕ 👩\u200d🚀", "\ufeffbom", "<b>x</b> &amp; y", "x" * 500]  # fmt: skip
IDS = ["NA", "null", "nan", '"', '"q', "'", "#", "None", "\\N", "1e5", "007", "a b", "é", "ا", "👍", "-1", "a,b"]
title = st.sampled_from(TITLES) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
ident = st.sampled_from(IDS) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=4)  # fmt: skip
catalogues = st.dictionaries(ident, title, min_size=4, max_size=8)


def dataset_of(folder: Path, ids: str = "source") -> GenRecDataset:
    columns = ["item_id", "title", "categories", *["source_id"] * (ids == "shuffled")]
    about = {**SETTINGS, "TIME_FIELD": "position", "true_time_field": "timestamp", "data_path": str(folder / "out"),
             "load_col": {"inter": ["user_id", "item_id", "position", "timestamp"], "item": columns},
             "item_attribute": "categories", "selected_features": ["categories"],
             "topk": [1], "valid_metric": "NDCG@1"}  # fmt: skip
    dataset = GenRecDataset(config_of(put(folder / "data.yaml", yaml.safe_dump(about)), name="data"))
    dataset.build()
    return dataset


def loaded(folder: Path, ids: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """``{item: title}`` and ``{user: items in order}`` as models see them."""
    dataset = dataset_of(folder, ids)
    catalogue = Catalogue.from_dataset(dataset)
    names = list(catalogue.item_tokens)
    if ids == "shuffled":
        assert names[1:] == [str(n) for n in range(1, len(names))], "RecBole numbers the items as the shuffle does"
        sources = dataset.field2id_token["source_id"][dataset.item_feat["source_id"].numpy()].tolist()
        names = [sources[n] for n in range(len(names))]
    sequences: dict[str, list[str]] = {}
    users = dataset.field2id_token["user_id"][dataset.sequences.user.numpy()].tolist()
    for user, item in zip(users, dataset.sequences.item.tolist()):
        sequences.setdefault(user, []).append(names[item])
    return dict(zip(names[1:], catalogue.titles[1:])), sequences


def shown(item_titles: dict[str, str], cleaned, numbers: dict[str, str] | None = None) -> dict[str, str]:
    """A title that cleaning leaves empty is missing: models then show the item's id."""
    return {item: cleaned(text) or f"item {(numbers or {}).get(item, item)}" for item, text in item_titles.items()}


def _histories(catalogue: dict[str, str]) -> dict[str, list[str]]:
    items = list(catalogue)
    return {user: items[shift:] + items[:shift] for shift, user in enumerate(["NA", '"u', "w\u00a0x"])}


@settings(max_examples=12, deadline=None)
@given(catalogues)
@pytest.mark.parametrize("ids", ["source", "shuffled"])
@pytest.mark.parametrize("source", ["amazon", "yelp"])
def test_json_dumps(source: str, ids: str, catalogue: dict[str, str]) -> None:
    keys = {"amazon": ("reviewerID", "asin", "overall", "unixReviewTime", "title"),
            "yelp": ("user_id", "business_id", "stars", "date", "name")}[source]  # fmt: skip
    rows = []
    for user, items in _histories(catalogue).items():
        for day, item in enumerate(items, 10):
            time = 1_300_000_000 + day if source == "amazon" else f"2019-01-{day}"
            rows.append(json.dumps(dict(zip(keys, (user, item, 5.0, time)))))
    lines = [json.dumps({keys[1]: item, keys[4]: text}) for item, text in catalogue.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"amazon": ("--reviews", "--meta"), "yelp": ("--reviews", "--businesses")}[source]
        files = put(folder / "r", rows[::-1]), put(folder / "m", lines)
        argv = [options[0], files[0], options[1], files[1], "--item_ids", ids]
        assert convert(folder, source, *argv) == 0
        titles, sequences = loaded(folder, ids)
        assert sequences == _histories(catalogue)
        if ids == "source":
            assert titles == shown(catalogue, clean_title)
        else:
            assert {item: titles[item] for item in catalogue if clean_title(catalogue[item])} == {
                item: clean_title(text) for item, text in catalogue.items() if clean_title(text)}


@settings(max_examples=12, deadline=None)
@given(st.lists(title, min_size=4, max_size=8))
def test_movielens(titles: list[str]) -> None:
    catalogue = {str(number): text.replace("\n", " ").replace("\r", " ") for number, text in enumerate(titles, 7)}
    histories = {str(user): list(catalogue)[user:] + list(catalogue)[:user] for user in (0, 1, 2)}
    ratings = [f"{user},{item},4.5,{time}" for user, items in histories.items() for time, item in enumerate(items)]
    movies = io.StringIO()
    writer = csv.writer(movies, lineterminator="\r\n")
    writer.writerows([("movieId", "title", "genres"), *((item, text, "Drama") for item, text in catalogue.items())])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = put(folder / "r", ratings), put(folder / "m", movies.getvalue())
        assert convert(folder, "movielens", "--ratings", files[0], "--movies", files[1]) == 0
        titles_, sequences = loaded(folder, "source")
        assert sequences == histories
        assert titles_ == shown(catalogue, lambda text: natural_order(clean_title(text)))


def test_a_converted_file_keeps_the_times(tmp_path: Path) -> None:
    rows = [json.dumps({"user_id": "u", "parent_asin": item, "rating": 1.0, "timestamp": 1588687728923 + n})
            for n, item in enumerate("abcd")]  # fmt: skip
    files = put(tmp_path / "r", rows), put(tmp_path / "m", ['{"parent_asin": "a", "title": "A"}'])
    assert convert(tmp_path, "amazon", "--reviews", files[0], "--meta", files[1]) == 0
    dataset = dataset_of(tmp_path)
    assert dataset.sequences.time.tolist() == [(1588687728923 + n) / 1000 for n in range(4)]
