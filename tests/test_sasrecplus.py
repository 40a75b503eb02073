"""SASRecPlus learns from all positions at once what RecBole's SASRec learns from a sample for each."""

from __future__ import annotations

import pytest
import torch
from data_helpers import config_of, made, random_interactions, write_dataset

from recbole_genrec.errors import UserError
from recbole_genrec.model.registry import get_model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(40, 30, 6, 12))


@pytest.mark.parametrize("longest", [12, 50])
def test_its_loss_and_gradients_are_sasrecs_over_all_samples(dataset, longest):
    """Without dropout, and where a window holds a user's whole history."""
    results = []
    for name in ("SASRec", "SASRecPlus"):
        torch.manual_seed(3)
        model, data = made(name, dataset, MAX_ITEM_LIST_LENGTH=longest, train_neg_sample_args=None)
        train = data.parts[0]
        rows = model.training_rows(train) if name == "SASRecPlus" else torch.arange(len(train))
        model.eval()
        loss = model.calculate_loss(train.inter_feat[rows].gather())
        loss.backward()
        results.append((float(loss.detach()), {key: weight.grad for key, weight in model.named_parameters()}))
        if name == "SASRecPlus":
            assert len(rows) < len(train) == model.work.targets
    (expected, gradients), (loss, own) = results
    assert loss == pytest.approx(expected, rel=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(own[key], gradient, atol=1e-6, rtol=1e-4)


def test_its_scores_are_sasrecs(dataset):
    model, data = made("SASRecPlus", dataset)
    other, _ = made("SASRec", dataset)
    other.load_state_dict(model.state_dict())
    users = data.parts[2].inter_feat[torch.arange(10)].gather()
    model.calculate_loss(data.parts[0].inter_feat[model.training_rows(data.parts[0])].gather())  # leaves nothing behind
    assert torch.equal(model.eval().full_sort_predict(users), other.eval().full_sort_predict(users))


@pytest.mark.parametrize("longest", [1, 3, 5])
def test_short_windows_cover_each_training_item_once(dataset, longest):
    model, data = made("SASRecPlus", dataset, MAX_ITEM_LIST_LENGTH=longest)
    train = data.parts[0]
    chosen = train.inter_feat[model.training_rows(train)].gather()
    covered = [(user, item) for user, history, target in zip(*(chosen[name].tolist() for name in (
        model.USER_ID, model.ITEM_SEQ, model.ITEM_ID))) for item in (*history, target) if item]
    assert len(covered) == len(set(covered))
    everything = train.inter_feat[torch.arange(len(train))].gather()
    missing = set(zip(everything[model.USER_ID].tolist(), everything[model.ITEM_ID].tolist())) - set(covered)
    assert len(missing) <= len(set(everything[model.USER_ID].tolist()))  # a first item that would stand alone


def test_it_has_no_bpr(dataset):
    with pytest.raises(UserError, match="SASRec has BPR"):
        get_model("SASRecPlus").check_config(config_of(dataset, "SASRecPlus", loss_type="BPR"))
