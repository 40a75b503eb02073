"""Losses against slow references: every item scored by brute force, every sample run through the model alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from data_helpers import config_of, random_interactions, write_dataset
from torch.nn.functional import cross_entropy

from recbole_genrec.backbone.items import NormedItems
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.loading import Data
from recbole_genrec.errors import UserError
from recbole_genrec.model.sequential_recommender.genrec import GenRec


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Users of 4 to 18 interactions over titles that share words, one of them twice."""
    titles = {f"i{n}": title for n, title in enumerate(
        ["Lego", "Lego City", "Lego City Police", "Lego", "Uno, the game", "Uno", *(f"Toy {n}" for n in range(24))])}
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(25, 30, 4, 18), titles)


def make(dataset, **settings):
    """A scratch GenRec in fp32 and its data."""
    config = config_of(dataset, "GenRec", **{"precision": "fp32", "gpu_id": "", "num_beams": 10, **settings})
    data = Data.load(config)
    torch.manual_seed(0)
    model = GenRec(config, data.parts[0]).eval()
    # Far from flat, so that a wrong token or place shows.
    for weight in model.backbone.parameters():
        torch.nn.init.normal_(weight, std=0.2) if weight.dim() > 1 else None
    return model, data


@torch.no_grad()
def reference(model, interaction, prefixes: list[int]) -> float:
    """The documented loss, one sample at a time: no batch, no padding, plain Python."""
    layout, objective = model.config["layout"], model.config["objective"]
    vocabulary, catalogue, targets = [], 0.0, 0
    spellings = [model.index.spelling(item) for item in range(model.index.n_items)]
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    for history, target, prefix in zip(interaction[model.ITEM_SEQ].tolist(), interaction[model.ITEM_ID].tolist(),
                                       prefixes):
        tokens = [model.tokenizer.bos_token_id, *encode(model.template.prefixes[prefix])]
        spans = []
        for item in [item for item in history if item]:
            spans.append((len(tokens), item))
            tokens += spellings[item]
        tokens += encode(model.template.suffix)
        spans = [] if layout == "per_target" else spans
        spans.append((len(tokens), target))
        tokens += spellings[target]
        log_probs = model.backbone.core(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for begin, item in spans:
            targets += 1
            for n, token in enumerate(spellings[item]):
                step, before = log_probs[begin + n - 1], spellings[item][:n]
                vocabulary.append(-float(step[token]))
                siblings = sorted({other[n] for other in spellings[1:] if other[:n] == before and len(other) > n})
                catalogue -= float(step[token] - step[siblings].logsumexp(0))
        if model.config["train_on_prompt"]:
            vocabulary = vocabulary[: len(vocabulary) - sum(len(spellings[item]) for _, item in spans)]
            vocabulary += [-float(log_probs[place - 1, token]) for place, token in enumerate(tokens) if place]
    return catalogue / targets if objective == "catalogue" else sum(vocabulary) / len(vocabulary)


@pytest.mark.parametrize("layout", ["per_target", "continuation"])
@pytest.mark.parametrize("objective, train_on_prompt", [("vocabulary", False), ("vocabulary", True),
                                                        ("catalogue", False)])
def test_the_loss_is_that_of_each_sample_alone(dataset, layout, objective, train_on_prompt):
    model, data = make(dataset, layout=layout, objective=objective, train_on_prompt=train_on_prompt)
    rows = torch.arange(0, len(data.parts[0]), 11)
    interaction = data.parts[0].inter_feat[rows]
    torch.manual_seed(5)
    prefixes = torch.randint(len(model.template.prefixes), (len(rows), 1)).flatten().tolist()
    torch.manual_seed(5)
    loss = float(model.calculate_loss(interaction).detach())
    assert loss == pytest.approx(reference(model, interaction, prefixes), rel=1e-4)


@pytest.mark.parametrize("layout", ["per_target", "continuation"])
def test_every_weight_of_a_scratch_model_gets_a_gradient(dataset, layout):
    model, data = make(dataset, layout=layout)
    model.calculate_loss(data.parts[0].inter_feat[torch.arange(8)]).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("layout", ["per_target", "shared_prefix", "continuation"])
def test_the_embedding_of_an_item_is_seen_after_its_title_only(dataset, layout):
    """Else a title would be predicted from its own number."""
    model, data = make(dataset, layout=layout, item_embedding=True, MAX_ITEM_LIST_LENGTH=50)
    rows = model.training_rows(data.parts[0])
    row = data.parts[0].inter_feat[torch.arange(5, 6) if rows is None else rows[:1]]
    model.calculate_loss(row).backward()
    seen = model.backbone.items.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert sorted(seen) == sorted({item for item in row[model.ITEM_SEQ][0].tolist() if item})
    assert int(row[model.ITEM_ID]) not in seen


@pytest.fixture
def llama_folder(tmp_path) -> Path:
    """A small LLaMA and its tokenizer, as transformers saves them."""
    tokenizer = train_tokenizer(["Lego City Police", "Uno, the game", "Toy 1", "\n"], 400)
    tokenizer.save_pretrained(tmp_path)
    tiny_model("llama", vocab=len(tokenizer)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("own", [{"item_embedding": True}, {"item_prior": 1.0},
                                 {"item_prior": 1.0, "item_reader": "tiny-llama"}])
def test_what_knows_items_by_number_is_trained_beside_lora(dataset, llama_folder, own, precision):
    model, data = make(dataset, **own, llm=str(llama_folder), precision=precision, max_prompt_tokens=200)
    rows = data.parts[0].inter_feat[torch.arange(4)]
    model.calculate_loss(rows).backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    first = {"item_reader": "readers.members.0.core.embed_tokens.weight", "item_prior": "items.weight",
             "item_embedding": "items.norm.weight"}[list(own)[-1]]
    assert f"backbone.{first}" in trained and any("lora" in name for name in trained)
    if "item_reader" not in own:  # of gain 0: nothing of the table is heard before that moves
        torch.nn.init.ones_(model.backbone.items.norm.weight)
        model.calculate_loss(rows).backward()
        assert model.backbone.items.weight.grad.any()
    assert model.eval().recommend(data.parts[2].inter_feat[torch.arange(4)], 5).items.min() > 0


def test_a_pretrained_model_begins_as_it_was_loaded_and_a_scratch_model_hears_its_items(dataset, llama_folder):
    for llm, same in ((str(llama_folder), True), ("tiny-llama", False)):
        model, data = make(dataset, item_embedding=True, llm=llm, max_prompt_tokens=200)
        prompts = model.eval().prompt_of(data.parts[2].inter_feat[torch.arange(4)])
        with_items = model.backbone.hidden_states(prompts)
        model.backbone.items = None
        assert torch.equal(with_items, model.backbone.hidden_states(prompts)) == same


@pytest.mark.parametrize("objective", ["catalogue", "vocabulary"])
@pytest.mark.parametrize("layout", ["per_target", "shared_prefix", "continuation"])
def test_the_prior_learns_each_title_from_what_stands_before_it(dataset, layout, objective):
    model, data = make(dataset, layout=layout, item_prior=1.0, objective=objective)
    model.eval().prompts.n_prefixes = 1
    rows = data.parts[0].inter_feat[torch.arange(5)].gather()
    history, targets = rows[model.ITEM_SEQ], rows[model.ITEM_ID]
    table = model.backbone.items
    torch.nn.init.normal_(table.weight, std=0.3)
    states, expected = [], []

    def logits(found):
        states.append(found)
        return NormedItems.logits(table, found)

    table.logits = logits
    with_prior = float(model.calculate_loss(rows).detach())
    model.config["item_prior"] = 0.0
    without = float(model.calculate_loss(rows).detach())
    for before, target in zip(history.tolist(), targets.tolist()):
        items = [item for item in before if item] + [target]
        alone = {"per_target": [len(items) - 1], "shared_prefix": range(1, len(items)),
                 "continuation": range(len(items))}[layout]
        for place in alone:
            prompt = model.prompts(torch.tensor([items[:place] or [0]]))
            state = model.backbone.hidden_states(prompt)[0, int(prompt.lengths[0]) - 1]
            expected.append(cross_entropy(logits(state[None])[:, 1:], torch.tensor([items[place] - 1])))
    assert len(states[0]) == len(expected)
    total = float(torch.stack(expected).sum().detach())
    assert with_prior - without == pytest.approx(total / int(model.work.terms), rel=1e-4)


@pytest.mark.parametrize("objective", ["catalogue", "vocabulary"])
@pytest.mark.parametrize("layout", ["per_target", "shared_prefix", "continuation"])
def test_the_readers_learn_each_item_from_those_before_it(dataset, layout, objective):
    model, data = make(dataset, layout=layout, item_prior=1.0, item_reader="tiny-llama", objective=objective, members=2)
    model.eval().prompts.n_prefixes = 1
    rows = data.parts[0].inter_feat[torch.arange(5)].gather()
    readers = model.backbone.readers.members
    for reader in readers:
        torch.nn.init.normal_(reader.items.weight, std=0.3)
    with_prior = float(model.calculate_loss(rows).detach())
    model.config["item_prior"] = 0.0
    without = float(model.calculate_loss(rows).detach())
    expected = []
    for before, target in zip(rows[model.ITEM_SEQ].tolist(), rows[model.ITEM_ID].tolist()):
        items = [item for item in before if item] + [target]
        for place in [len(items) - 1] if layout == "per_target" else range(1, len(items)):
            for reader in readers:
                state = reader(torch.tensor([items[:place]]))[:, -1]
                expected.append(cross_entropy(reader.items.logits(state)[:, 1:], torch.tensor([items[place] - 1])))
    total = float(torch.stack(expected).sum().detach())
    assert with_prior - without == pytest.approx(total / int(model.work.terms), rel=1e-4)


@pytest.mark.parametrize("members", [1, 3])
def test_the_readers_are_asked_about_the_items_of_the_prompt(dataset, members):
    """What they say is their mean, and counts as log-probabilities once that adds up to one."""
    model, data = make(dataset, item_prior=2.0, item_reader="tiny-llama", members=members)
    readers = model.eval().backbone.readers.members
    for reader in readers:
        torch.nn.init.normal_(reader.items.weight, std=0.3)
    rows = data.parts[2].inter_feat[torch.arange(4)].gather()
    both = model.score_all(rows)
    model.config["item_prior"] = 0.0
    words = model.score_all(rows)
    for row, history in enumerate(rows[model.ITEM_SEQ].tolist()):
        items = torch.tensor([[item for item in history if item]])
        said = [reader.items.logits(reader(items)[:, -1])[0, 1:].log_softmax(0) for reader in readers]
        numbers = torch.stack(said).mean(0).log_softmax(0)
        assert torch.allclose(both[row, 1:], words[row, 1:] + 2 * numbers, atol=1e-3)


@pytest.mark.parametrize("reader", [None, "tiny-llama"])
@pytest.mark.parametrize("objective", ["catalogue", "vocabulary"])
def test_smoothed_labels_are_a_mixture_of_what_is_said_of_the_targets_and_of_all_others(dataset, objective, reader):
    model, data = make(dataset, objective=objective, item_prior=1.0, item_reader=reader)
    rows = data.parts[0].inter_feat[torch.arange(5)]
    model.eval().prompts.n_prefixes = 1
    losses = {}
    for prior in (0.0, 1.0):
        for smoothing in (0.0, 0.1, 0.2):
            model.config["item_prior"], model.config["label_smoothing"] = prior, smoothing
            losses[prior, smoothing] = float(model.calculate_loss(rows).detach())
    steps = [[losses[prior, smoothing] - losses[prior, smoothing - 0.1] for smoothing in (0.1, 0.2)]
             for prior in (0.0, 1.0)]
    assert all(first == pytest.approx(second, rel=1e-2) for first, second in steps)
    assert steps[0][0] != pytest.approx(0, abs=1e-5) != pytest.approx(steps[1][0] - steps[0][0], abs=1e-5)


@pytest.mark.parametrize("reader", [None, "tiny-llama"])
def test_a_batch_whose_histories_are_all_left_out_teaches_the_first_titles_alone(dataset, reader):
    model, data = make(dataset, item_prior=1.0, item_reader=reader, item_dropout=0.9)
    rows = data.parts[0].inter_feat[torch.arange(3)].gather()
    rows.interaction[model.ITEM_SEQ] = torch.zeros_like(rows[model.ITEM_SEQ])
    loss = model.train().calculate_loss(rows)
    loss.backward()
    assert float(loss.detach()) > 0


@pytest.mark.parametrize("own", [{"norm": "full"}, {"decode": "free"}])
def test_a_prior_that_nothing_would_read_is_refused(dataset, own):
    with pytest.raises(UserError, match="item_prior has a say in choices among titles"):
        GenRec.check_config(config_of(dataset, "GenRec", **{"item_prior": 1.0, **own}))


@pytest.mark.parametrize("own, words", [
    ({"item_prior": 0.0, "item_reader": "tiny-llama"}, "tells what item_prior weighs"),
    ({"item_prior": 1.0, "members": 2}, "item_reader names none"),
    ({"item_prior": 1.0, "item_reader": "tiny-t5"}, "is no decoder-only scratch backbone"),
    ({"item_prior": 1.0, "item_reader": "glm-10b"}, "is no decoder-only scratch backbone"),
    ({"item_prior": 1.0, "item_reader": "tiny-lama"}, "item_reader=tiny-lama .* did you mean 'tiny-llama'")])
def test_a_reader_that_cannot_read_items_is_refused(dataset, own, words):
    with pytest.raises(UserError, match=words):
        GenRec.check_config(config_of(dataset, "GenRec", **own))


def test_items_cannot_be_left_out_of_branches(dataset):
    with pytest.raises(UserError, match="item_dropout needs layout"):
        GenRec.check_config(config_of(dataset, "GenRec", layout="shared_prefix", item_dropout=0.1))


def test_items_are_left_out_in_training_alone_and_the_rest_is_a_history_of_its_own(dataset, monkeypatch):
    model, data = make(dataset, layout="continuation", item_dropout=0.4, MAX_ITEM_LIST_LENGTH=50)
    rows = data.parts[0].inter_feat[model.training_rows(data.parts[0])].gather()
    model.prompts.n_prefixes = 1
    whole = float(model.eval().calculate_loss(rows).detach())
    everything = int(model.work.targets)
    model.train()
    torch.manual_seed(4)
    thinned = float(model.calculate_loss(rows).detach())
    share = int(model.work.targets) / everything
    assert 0.5 < share < 0.8 and thinned != whole
    torch.manual_seed(4)
    left_out = torch.rand(rows[model.ITEM_SEQ].shape) < 0.4
    model.config["item_dropout"] = 0.0
    rows.interaction[model.ITEM_SEQ] = rows[model.ITEM_SEQ].masked_fill(left_out, 0)
    assert float(model.calculate_loss(rows).detach()) == pytest.approx(thinned, rel=1e-6)
    # Where an item is left out, what remains is laid out as if it had never been there.
    kept = [[item for item in row if item] for row in rows[model.ITEM_SEQ].tolist()]
    width = max(map(len, kept))
    rows.interaction[model.ITEM_SEQ] = torch.tensor([row + [0] * (width - len(row)) for row in kept])
    assert float(model.calculate_loss(rows).detach()) == pytest.approx(thinned, rel=1e-6)


@pytest.mark.parametrize("objective", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("kind", ["tiny-llama", "gpt2"])
def test_shared_prefix_has_the_loss_and_the_gradients_of_per_target(dataset, objective, kind, tmp_path):
    """Histories of any length in one batch; GPT-2 has absolute positions, LLaMA relative ones."""
    if kind == "gpt2":
        tokenizer = train_tokenizer(["Lego City Police", "Uno, the game", "Toy 1", "\n"], 400)
        tokenizer.save_pretrained(tmp_path)
        tiny_model("gpt2", vocab=len(tokenizer)).save_pretrained(tmp_path)
    losses, gradients = [], []
    for layout in ("per_target", "shared_prefix"):
        model, data = make(dataset, layout=layout, objective=objective, MAX_ITEM_LIST_LENGTH=50,
                           **({"llm": str(tmp_path), "max_prompt_tokens": 200} if kind == "gpt2" else {}))
        model.prompts.n_prefixes = 1  # per_target draws an instruction a target
        train, rows = data.parts[0], model.training_rows(data.parts[0])
        rows = torch.arange(len(train)) if rows is None else rows
        loss = model.calculate_loss(train[rows])
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({name: weight.grad for name, weight in model.backbone.named_parameters()
                          if weight.requires_grad})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_shared_prefix_has_each_sample_as_a_target_once(dataset, longest):
    model, data = make(dataset, layout="shared_prefix", MAX_ITEM_LIST_LENGTH=longest)
    train = data.parts[0]
    interaction = train[model.training_rows(train)]
    batch = model.prompts.branched(interaction[model.ITEM_SEQ], interaction[model.ITEM_ID])
    ends = (batch.branch > 0) & model.trie.is_leaf(batch.node) & (batch.node > 0)
    users = interaction[model.USER_ID].unsqueeze(1).expand_as(batch.node)[ends]
    items = model.trie.item[model.trie.low[batch.node[ends]]]
    everything = train[torch.arange(len(train))]
    assert Counter(zip(users.tolist(), items.tolist())) == Counter(
        zip(everything[model.USER_ID].tolist(), everything[model.ITEM_ID].tolist()))


# ---------------------------------------------------------------------------------------------- training_rows

@pytest.mark.parametrize("longest", [1, 3, 5, 50])
def test_continuation_covers_each_training_interaction_once(dataset, longest):
    model, data = make(dataset, layout="continuation", MAX_ITEM_LIST_LENGTH=longest)
    train = data.parts[0]
    chosen = train.inter_feat[model.training_rows(train)]
    covered = Counter()
    for user, history, target in zip(chosen[model.USER_ID].tolist(), chosen[model.ITEM_SEQ].tolist(),
                                     chosen[model.ITEM_ID].tolist()):
        covered.update((user, item) for item in [*history, target] if item)
    # All but each user's last two, which are the targets of validation and test.
    everything, left = data.dataset.sequences, Counter()
    by_user: dict[int, list[int]] = {}
    for user, item in zip(everything.user.tolist(), everything.item.tolist()):
        by_user.setdefault(user, []).append(item)
    for user, items in by_user.items():
        left.update((user, item) for item in items[:-2])
    assert max(left.values()) == 1  # no user repeats an item here, so a pair is an interaction
    missing = left - covered
    assert not covered - left
    # A window of one item has no history to predict it from: it may be what is left over at a user's beginning.
    assert all(count == 1 for count in missing.values())
    for user, item in missing:
        assert item == by_user[user][0] and (len(by_user[user]) - 2) % (longest + 1) == 1


def test_per_target_trains_on_every_sample(dataset):
    model, data = make(dataset, layout="per_target")
    assert model.training_rows(data.parts[0]) is None
