"""ItemLM: each item of a window is predicted from those before it; members are models apart, multiplied."""

from __future__ import annotations

import pytest
import torch
from data_helpers import config_of, made, random_interactions, write_dataset

from recbole_genrec.errors import UserError
from recbole_genrec.model.registry import get_model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(40, 30, 6, 12))


def one_by_one(reader, users, model) -> torch.Tensor:
    """``[N, n_items - 1]`` log-probabilities after each history, each read by itself, without padding."""
    histories = [history[:length] for history, length in zip(users[model.ITEM_SEQ], users[model.ITEM_SEQ_LEN].tolist())]
    states = torch.cat([reader(history.unsqueeze(0))[:, -1] for history in histories])
    return (states @ reader.items.weight.T)[:, 1:].log_softmax(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_its_loss_is_the_mean_over_all_samples(dataset, smoothing):
    """Where a window holds a user's whole history, by members that are each read by itself."""
    model, data = made("ItemLM", dataset, MAX_ITEM_LIST_LENGTH=12, members=2, label_smoothing=smoothing)
    model.eval()
    train = data.parts[0]
    loss = model.calculate_loss(train.inter_feat[model.training_rows(train)].gather())
    samples = train.inter_feat[torch.arange(len(train))].gather()
    expected = 0
    for reader in model.readers.members:
        known = one_by_one(reader, samples, model)
        right = known.gather(1, samples[model.ITEM_ID].unsqueeze(1) - 1).mean()
        expected = expected - (1 - smoothing) * right - smoothing * known.mean()
    torch.testing.assert_close(loss, expected)
    assert int(model.work.targets) == len(train)


def test_its_scores_are_the_mean_of_its_members(dataset):
    model, data = made("ItemLM", dataset, members=3)
    users = data.parts[2].inter_feat[torch.arange(10)].gather()
    scores = model.eval().full_sort_predict(users).view(10, -1)
    expected = sum(one_by_one(reader, users, model) for reader in model.readers.members) / 3
    torch.testing.assert_close(scores[:, 1:], expected)
    assert (scores[:, 0] == -torch.inf).all()
    torch.testing.assert_close(model.predict(users), scores.gather(1, users[model.ITEM_ID].unsqueeze(1)).squeeze(1))


def test_members_share_nothing(dataset):
    model, data = made("ItemLM", dataset, members=2)
    train = data.parts[0]
    model.calculate_loss(train.inter_feat[model.training_rows(train)].gather()).backward()
    first, second = ({key: weight for key, weight in reader.named_parameters()} for reader in model.readers.members)
    for key, weight in first.items():
        assert weight is not second[key] and weight.grad is not None, key
    assert not torch.equal(first["core.embed_tokens.weight"], second["core.embed_tokens.weight"])


@pytest.mark.parametrize("given, message", [
    ({"loss_type": "BPR"}, "it learns by CE"),
    ({"item_reader": "tiny-lama"}, "did you mean 'tiny-llama'"),
    ({"item_reader": "tiny-t5"}, "no decoder-only scratch backbone"),
])
def test_what_it_cannot_do_is_said(dataset, given, message):
    with pytest.raises(UserError, match=message):
        get_model("ItemLM").check_config(config_of(dataset, "ItemLM", **given))
