"""Lazy windows: column by column what RecBole's augmentation writes out, for every split, loader and transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_helpers import config_of, random_interactions, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import init_seed

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.windows import TARGET_ROW, Windows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A data set whose interactions also have a number, a list of words and a list of numbers."""
    folder = tmp_path_factory.mktemp("windows")
    path = write_dataset(folder, random_interactions(users=12, items=15, shortest=1, longest=11),
                         classes={f"i{item}": " ".join("abcd"[: item % 5]) or "e" for item in range(15)})
    inter = folder / "tiny" / "tiny.inter"
    head, *lines = inter.read_text().splitlines()
    dice = np.random.default_rng(3)
    lines = [f"{line}\t{dice.integers(9)}\t{' '.join(map(str, dice.integers(5, size=dice.integers(4))))}"
             f"\t{' '.join(map(str, dice.integers(9, size=1 + dice.integers(2)) / 2))}" for line in lines]
    inter.write_text("\n".join([head + "\tmood:token\tplaces:token_seq\tweights:float_seq", *lines]) + "\n")
    return path


COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "time", "mood", "places", "weights"],
                        "item": ["item_id", "title", "class"]}}


def both(files, **options):
    """Our data set and RecBole's, built: from the same files with the same settings."""
    options = {**COLUMNS, **options}
    return tuple(kind(config_of(files, **options)).build() for kind in (GenRecDataset, SequentialDataset))


def assert_same(ours, stock):
    """Every column of RecBole's has the same shape and values in ours (times as float64)."""
    assert set(stock) == set(ours) - {TARGET_ROW}
    for field in stock:
        mine, theirs = ours[field], stock[field]
        assert mine.dtype == theirs.dtype or field in ("time", "time_list"), field
        assert torch.equal(mine.to(theirs.dtype), theirs), field


@pytest.mark.parametrize("longest", [1, 3, 50])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"LS": "valid_only"}, {"LS": "test_only"},
                                   {"RS": [0.6, 0.2, 0.2]}, {"TS": [0.6, 0.2, 0.2]}], ids=str)
def test_every_column_is_recboles(files, longest, split):
    options = {"MAX_ITEM_LIST_LENGTH": longest, "eval_args": {"split": split}}
    for ours, stock in zip(*both(files, **options)):
        assert isinstance(ours.inter_feat, Windows) and len(ours) == len(stock)
        if len(stock):  # RecBole cannot gather nothing
            assert_same(ours.inter_feat.gather(), stock.inter_feat)
            assert_same(ours[list(range(len(ours)))], stock[list(range(len(stock)))])


def test_columns_that_a_model_does_without_are_dropped_as_recbole_drops_them(files):
    for ours, stock in zip(*both(files, unused_col={"inter": ["mood", "weights"]})):
        assert "mood" not in ours.inter_feat and "mood_list" in ours.inter_feat
        assert_same(ours.inter_feat, stock.inter_feat)


@pytest.mark.parametrize("select", [
    lambda n: slice(1, n, 2), lambda n: range(n), lambda n: [n - 1, 0, 0], lambda n: np.arange(n)[::-1].copy(),
    lambda n: torch.arange(n) % 3 == 0, lambda n: torch.tensor([2, 1]),
], ids=["slice", "range", "list", "numpy", "mask", "tensor"])
def test_any_index_selects_what_it_selects_in_recboles(files, select):
    ours, stock = (parts[0].inter_feat for parts in both(files))
    index = select(len(ours))
    assert_same(ours[index].gather(), stock[list(index) if isinstance(index, range) else index])


def test_an_empty_index_gives_no_samples(files):
    ours, _ = both(files)
    assert len(ours[0].inter_feat[[]]) == 0 and ours[0].inter_feat[[]]["item_id_list"].shape == (0, 5)


@pytest.fixture(scope="module")
def train(files):
    """The training samples of both."""
    return tuple(parts[0].inter_feat for parts in both(files))


@settings(max_examples=50)
@given(steps=st.lists(st.sampled_from(["sort", "shuffle", "take", "write", "drop"]), max_size=6))
def test_whatever_is_done_to_the_samples(steps, train):
    """RecBole sorts, shuffles, writes and drops in place; the interactions that samples share never change."""
    ours, stock = (feat[torch.arange(len(feat))] for feat in train)
    for number, step in enumerate(steps):
        for feat in (ours, stock):
            torch.manual_seed(number)
            if step == "sort":
                feat.sort(by=["item_id", "time"], ascending=True)  # descending fails in RecBole
            elif step == "shuffle":
                feat.shuffle()
            elif step == "write":
                feat[f"new{number}"] = torch.arange(len(feat)) * number
            elif step == "drop" and "mood_list" in feat:
                feat.drop("mood_list")
        if step == "take":
            ours, stock = ours[torch.arange(len(ours) // 2)], stock[torch.arange(len(stock) // 2)]
    assert_same(ours.gather(), stock)
    assert len(ours) == len(stock) and set(ours.columns) - {TARGET_ROW} == set(stock.columns)


def test_an_unknown_column_is_a_key_error(files):
    ours, _ = both(files)
    with pytest.raises(KeyError, match="nothing"):
        ours[0].inter_feat["nothing"]
    with pytest.raises(ValueError, match="nothing"):  # RecBole's own message
        ours[0].inter_feat.drop("nothing")


def test_recboles_matrices_come_out_the_same(files):
    ours, stock = both(files)
    for mine, theirs in zip(ours, stock):
        assert (mine.inter_matrix("csr") != theirs.inter_matrix("csr")).nnz == 0
        assert mine.item_counter == theirs.item_counter and mine.inter_num == theirs.inter_num
        for mine_part, their_part in zip(mine.history_item_matrix(), theirs.history_item_matrix()):
            assert torch.equal(mine_part.sort(-1).values, their_part.sort(-1).values)


# ---------------------------------------------------------------------------------------------------- batches

MODELS = {
    "SASRec": {}, "GRU4Rec": {}, "Caser": {}, "HGN": {}, "FDSA": {}, "BERT4Rec": {},
    "S3Rec": {"train_stage": "pretrain"}, "SASRec BPR": {"loss_type": "BPR"},
}


def batches(kind, files, model: str, options):
    """All training batches of two epochs and the batches of validation and test, under one seed."""
    config = config_of(files, model.split()[0], train_batch_size=16, eval_batch_size=16, **options)
    dataset = kind(config)
    parts = dataset.build()
    init_seed(5, True)
    train, valid, test = create_samplers(config, dataset, parts)
    loaders = [get_dataloader(config, phase)(config, part, sampler, shuffle=phase == "train")
               for phase, part, sampler in zip(("train", "valid", "test"), parts, (train, valid, test))]
    return [*loaders[0], *loaders[0], *(batch[0] for loader in loaders[1:] for batch in loader)]


@pytest.mark.parametrize("model", MODELS)
def test_batches_are_recboles_for_every_model(files, model):
    """Shuffling, BERT4Rec's and S3Rec's random masks, negatives and item features included."""
    ours, stock = (batches(kind, files, model, MODELS[model]) for kind in (GenRecDataset, SequentialDataset))
    assert len(ours) == len(stock) > 4
    for mine, theirs in zip(ours, stock):
        assert_same(mine, theirs)
    assert any(not torch.equal(one["item_id"], other["item_id"]) for one, other in zip(ours, ours[1:]))
