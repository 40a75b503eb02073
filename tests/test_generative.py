"""What every generative model must do, whatever it is: one test case that each of them goes through."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from data_helpers import config_of, random_interactions, write_dataset
from recbole.data.interaction import Interaction

from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import HISTORY
from recbole_genrec.model.registry import OURS, get_model, models_of

MODELS = ["GenRec", "GenRecT5", "P5", "RecSysLLM"]
#: What else goes through all that follows: name of a model, and settings that make another of it.
VARIANTS = {**{name: (name, {}) for name in MODELS}, "GenRec, item_embedding": ("GenRec", {"item_embedding": True}),
            "GenRec, item_prior": ("GenRec", {"item_prior": 1.0}),
            "GenRec, item_reader": ("GenRec", {"item_prior": 1.0, "item_reader": "tiny-llama"})}
SETTINGS = {"precision": "fp32", "gpu_id": "", "num_beams": 10}


def test_every_generative_model_is_here():
    modules = models_of(OURS)
    assert sorted(name for name in modules if getattr(get_model(name), "generative", False)) == MODELS
    assert all(importlib.import_module(module).__doc__ and get_model(name).__doc__ for name, module in modules.items())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(40, 30, 6, 12))


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request, dataset):
    """The model after some steps, the data, and the losses on the way."""
    name, own = VARIANTS[request.param]
    config = config_of(dataset, name, **SETTINGS, **own)
    data = Data.load(config)
    torch.manual_seed(1)
    model = config.model_class(config, data.parts[0])
    rows = model.training_rows(data.parts[0])
    samples = data.parts[0].inter_feat[torch.arange(len(data.parts[0])) if rows is None else rows]
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model.calculate_loss(samples)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model.eval(), data, losses


def test_it_learns_and_tells_what_it_did(trained):
    model, data, losses = trained
    assert losses[-1] < losses[0] and all(loss == loss for loss in losses)
    work = model.work.numbers()
    assert 0 < work.targets <= work.terms and work.supervised <= work.tokens <= work.places <= work.pairs
    assert model.training_flops(work) > 0
    assert len(model.training_lengths(data.parts[0])) == len(data.parts[0])


def test_a_list_has_distinct_items_best_first_and_nothing_of_the_history(trained):
    model, data, _ = trained
    users = data.parts[2].inter_feat[torch.arange(10)].gather()
    users.update(Interaction({HISTORY: data.dataset.sequences.history(users["target_row"])}))
    ranking = model.recommend(users, 10)
    assert all(len(set(row)) == 10 and 0 not in row for row in ranking.items.tolist())
    assert (ranking.scores.diff() <= 0).all() and (ranking.scores <= 0).all()
    assert not (ranking.items.unsqueeze(2) == users[HISTORY].unsqueeze(1)).any()


def test_scores_are_those_of_the_list_and_predict_gives_the_same(trained):
    model, data, _ = trained
    users = data.parts[2].inter_feat[torch.arange(6)].gather()
    ranking = model.recommend(users, model.topk)
    scores = model.full_sort_predict(users).view(6, -1)
    assert (scores > -torch.inf).sum(1).tolist() == [model.topk] * 6 and (scores[:, 0] == -torch.inf).all()
    torch.testing.assert_close(scores.gather(1, ranking.items), ranking.scores, atol=1e-5, rtol=0)
    for place in (0, 3):
        users.interaction[model.ITEM_ID] = ranking.items[:, place]
        torch.testing.assert_close(model.predict(users), ranking.scores[:, place], atol=1e-4, rtol=1e-4)


def test_the_target_of_a_row_changes_nothing(trained):
    model, data, _ = trained
    users = data.parts[2].inter_feat[torch.arange(6)].gather()
    before = model.full_sort_predict(users)
    for name in ("item_id", "title", "class"):
        if name in users:
            users.interaction[name] = users[name].flip(0)
    assert torch.equal(model.full_sort_predict(users), before)


def test_every_way_of_decoding_agrees(trained):
    model, data, _ = trained
    users, found = data.parts[2].inter_feat[torch.arange(6)], {}
    before = dict(decode=model.config["decode"], num_beams=model.config["num_beams"])
    for decode in ("exact_all", "exact_topk", "beam"):
        model.config["decode"], model.config["num_beams"] = decode, 30
        found[decode] = model.recommend(users, 10).items.tolist()
    for key, value in before.items():
        model.config[key] = value
    assert found["exact_all"] == found["exact_topk"] == found["beam"]


def test_what_is_written_freely_is_counted_only_if_it_exists(trained):
    model, data, _ = trained
    prompts = model.prompt_of(data.parts[2].inter_feat[torch.arange(4)])
    items, texts, scores = model.write(prompts, 5)
    assert items.shape == scores.shape == (4, 5) and (scores.diff() <= 0).all()
    for row, written in zip(items.tolist(), texts):
        assert [model.index.texts[item] for item in row if item] == [
            text for item, text in zip(row, written) if item]
        assert all(text not in model.index.texts[1:] for item, text in zip(row, written) if not item)


def test_saved_and_loaded_it_scores_the_same(trained, dataset, tmp_path):
    model, data, _ = trained
    users = data.parts[2].inter_feat[torch.arange(6)]
    model.save_pretrained(tmp_path / "model")
    torch.manual_seed(9)
    other = type(model)(model.config, data.parts[0]).eval()
    assert not torch.equal(other.full_sort_predict(users), model.full_sort_predict(users))
    other.load_pretrained(tmp_path / "model")
    assert torch.equal(other.full_sort_predict(users), model.full_sort_predict(users))
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_a_record_can_tell_what_it_was(trained):
    facts = trained[0].describe()
    assert {"backbone", "trie_fingerprint", "prompt_fingerprint", "items", "max_prompt_tokens"} <= facts.keys()
