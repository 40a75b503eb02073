"""Training made cheaper, with the same numbers: pieces, blocks, buckets, accumulation, checkpointing, compilation."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from conftest import tiny_model
from data_helpers import NAME, config_of, random_interactions, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import RandomSampler

from recbole_genrec.backbone import blocks, head
from recbole_genrec.backbone.head import sum_in_pieces
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.cli import main
from recbole_genrec.data.bucketing import LikeLength
from recbole_genrec.data.loading import Data
from recbole_genrec.model.sequential_recommender.genrec import GenRec
from recbole_genrec.trainer import GenRecTrainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Users of 4 to 18 interactions, titles of very different lengths."""
    titles = {f"i{n}": " ".join(["Toy", str(n), *["long"] * (n % 7)]) for n in range(30)}
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(25, 30, 4, 18), titles)


def make(dataset, **more):
    """A scratch GenRec in fp32 and its data."""
    config = config_of(dataset, "GenRec", precision="fp32", gpu_id="", num_beams=10, show_progress=False, **more)
    data = Data.load(config)
    torch.manual_seed(0)
    return GenRec(config, data.parts[0]), data


def loss_and_gradients(model, interaction) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(3)  # instructions are drawn
    model.zero_grad()
    loss = model.calculate_loss(interaction)
    loss.backward()
    return float(loss.detach()), {name: weight.grad.clone() for name, weight in model.named_parameters()
                                  if weight.grad is not None}


def assert_same(one, other) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------- the head, piece by piece

@given(st.integers(0, 30), st.integers(1, 12), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_a_sum_in_pieces_has_the_value_and_gradients_of_the_whole(count, size, bias, frozen):
    torch.manual_seed(count)
    linear, states = nn.Linear(6, 11, bias=bias), torch.randn(count, 6, requires_grad=True)
    linear.weight.requires_grad_(not frozen)
    target = torch.randint(11, (count,))
    trained = [weight for weight in (states, *linear.parameters()) if weight.requires_grad]
    whole = cross_entropy(linear(states), target, reduction="sum")
    expected = torch.autograd.grad(3 * whole, trained, allow_unused=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "POSITIONS", size)
        patch.setattr(head, "LOGITS", 0)
        total = sum_in_pieces(lambda part, rows: cross_entropy(linear(part), target[rows], reduction="sum"), states,
                              linear.parameters(), 11)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(torch.autograd.grad(3 * total, trained, allow_unused=True), expected)
    with torch.no_grad():
        alone = sum_in_pieces(lambda part, rows: cross_entropy(linear(part), target[rows], reduction="sum"), states,
                              linear.parameters(), 11)
    torch.testing.assert_close(alone, whole)


@pytest.mark.parametrize("objective", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("layout", ["per_target", "shared_prefix", "continuation"])
def test_the_loss_does_not_depend_on_the_pieces(dataset, monkeypatch, objective, layout):
    model, data = make(dataset, layout=layout, objective=objective)
    interaction = data.parts[0][torch.arange(0, len(data.parts[0]), 9)]
    whole = loss_and_gradients(model, interaction)
    monkeypatch.setattr(head, "LOGITS", 0)
    monkeypatch.setattr(head, "POSITIONS", 7)
    assert_same(loss_and_gradients(model, interaction), whole)


WIDE = """
import torch
from torch import nn
from recbole_genrec.backbone.head import sum_in_pieces
from recbole_genrec.evaluation.cost import Peak
head, states = nn.Linear(16, 128_000, bias=False), torch.randn(1024, 16, requires_grad=True)
target, peak = torch.randint(128_000, (1024,)), Peak(torch.device("cpu"))
loss = lambda part, rows: nn.functional.cross_entropy(head(part), target[rows], reduction="sum")
before = peak.record()["peak_memory_mb"]
sum_in_pieces(loss, states, head.parameters(), 128_000).backward()
print(peak.record()["peak_memory_mb"] - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a process's peak holds its parent's")
def test_a_wide_vocabulary_does_not_need_the_logits_of_all_positions():
    """They alone would be 524 MB here, with their gradient and softmax three times that."""
    done = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 524


# ------------------------------------------------------------------------------------- attention, block by block

@pytest.mark.parametrize("queries", [3, 64])
@pytest.mark.parametrize("kind", ["tiny-llama", "gpt2", "qwen2"])
def test_blocks_have_the_loss_and_the_gradients_of_the_dense_mask(dataset, monkeypatch, tmp_path, kind, queries):
    more = {}
    if kind != "tiny-llama":
        tokenizer = train_tokenizer(["Toy long", *map(str, range(30)), "\n"], 400)
        tokenizer.save_pretrained(tmp_path)
        tiny_model(kind, vocab=len(tokenizer)).save_pretrained(tmp_path)
        more = {"llm": str(tmp_path), "max_prompt_tokens": 150, "lora_dropout": 0.0}
    monkeypatch.setattr(blocks, "QUERIES", queries)
    model, data = make(dataset, layout="shared_prefix", MAX_ITEM_LIST_LENGTH=10, **more)
    interaction = data.parts[0][model.training_rows(data.parts[0])[::3]]
    used = []
    monkeypatch.setattr("recbole_genrec.backbone.causal.seen_by_block",
                        lambda seen: used.append(blocks.seen_by_block(seen)) or used[-1])
    dense = loss_and_gradients(model.eval(), interaction)
    assert not used
    assert_same(loss_and_gradients(model.train(), interaction), dense)
    assert len(used) == 1
    if queries == 3:  # most of a branched mask is empty
        assert sum(len(keys) for keys in used[0]) < 0.8 * len(used[0]) ** 2 * queries


# ------------------------------------------------------------------------------------------- rows of like length

@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=60)
def test_each_step_has_the_samples_that_it_would_have_and_they_are_sorted(count, step, seed):
    lengths = torch.randint(1, 50, (count,), generator=torch.Generator().manual_seed(seed))
    plain, inner = (RandomSampler(range(count), generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    sampler = LikeLength(inner, lengths, step)
    assert len(sampler) == count
    for _ in range(2):
        drawn, sorted_ = (torch.tensor(list(samples)).split(step) for samples in (plain, sampler))
        for before, after in zip(drawn, sorted_, strict=True):
            assert before.sort().values.tolist() == after.sort().values.tolist()
            assert (lengths[after].diff() >= 0).all()


@pytest.mark.parametrize("layout", ["per_target", "shared_prefix", "continuation"])
def test_training_lengths_are_those_of_the_rows(dataset, layout):
    model, data = make(dataset, layout=layout, prompt="next_item")
    model.prompts.n_prefixes = 1
    train, rows = data.parts[0], model.training_rows(data.parts[0])
    train = train if rows is None else train.copy(train.inter_feat[rows])
    interaction = train[torch.arange(len(train))]
    lay_out = model.prompts.branched if layout == "shared_prefix" else model.prompts
    difference = lay_out(interaction[model.ITEM_SEQ], interaction[model.ITEM_ID]).lengths \
        - model.training_lengths(train)
    assert len(difference.unique()) == 1  # the frame, the same for all


@pytest.mark.parametrize("layout", ["per_target", "shared_prefix", "continuation"])
def test_an_epoch_has_the_samples_that_it_had_and_little_padding(dataset, layout):
    model, data = make(dataset, layout=layout, train_batch_size=8, gradient_accumulation_steps=64)
    rows = model.training_rows(data.parts[0])
    expected = data.parts[0].inter_feat if rows is None else data.parts[0].inter_feat[rows]
    loader, _, _ = data.loaders(model.config, model)
    epochs = [list(loader) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(loader)
        assert torch.cat([batch["target_row"] for batch in epoch]).sort().values.tolist() \
            == expected["target_row"].sort().values.tolist()
    first, second = ([batch["target_row"].tolist() for batch in epoch] for epoch in epochs)
    assert first != second
    bucketed = padding(model, epochs[0])
    assert bucketed < 0.5 * padding(model, list(Data.loaders(data, model.config)[0])) or bucketed < 0.02


def padding(model, batches) -> float:
    tokens = places = 0
    for batch in batches:
        model.calculate_loss(batch)
        tokens, places = tokens + int(model.work.tokens), places + model.work.places
    return 1 - tokens / places


# ---------------------------------------------------------------------------------- accumulation and the schedule

class Recorder(torch.optim.SGD):
    """Keeps the gradient of each step."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.gradients = []

    def step(self, closure=None):
        self.gradients.append([weight.grad.clone() for group in self.param_groups for weight in group["params"]])


class _Batches(list):
    """Batches as a loader has them."""

    generator = torch.Generator()


@pytest.mark.parametrize("model_name, more", [("GenRec", {"objective": "vocabulary"}), ("GenRec", {}),
                                              ("GenRec", {"layout": "shared_prefix"}), ("GRU4Rec", {})])
def test_accumulated_batches_have_the_gradient_of_one(dataset, tmp_path, model_name, more):
    """Five micro-batches of unequal size, three a step: the last group is partial."""
    if model_name == "GenRec":
        model, data = make(dataset, gradient_accumulation_steps=3, clip_grad_norm=None, **more)
        model.prompts.n_prefixes = 1
        config = model.config
    else:
        config = config_of(dataset, model_name, gpu_id="", gradient_accumulation_steps=3, dropout_prob=0.0)
        data = Data.load(config)
        model = config.model_class(config, data.parts[0])
    train = data.parts[0]
    rows = torch.arange(0, len(train), 7)[:26]
    parts = _Batches(train[part] for part in rows.split([7, 2, 9, 5, 3]))
    trainer = GenRecTrainer(config, model, data.dataset, tmp_path)
    trainer.optimizer = Recorder(model.parameters(), lr=0.1)
    trainer._train_epoch(parts, 0)
    assert len(trainer.optimizer.gradients) == 2
    for got, whole in zip(trainer.optimizer.gradients, (rows[:18], rows[18:])):
        model.zero_grad()
        model.calculate_loss(train[whole]).backward()
        for gradient, weight in zip(got, model.parameters()):
            torch.testing.assert_close(gradient, weight.grad, atol=1e-5, rtol=1e-4)


def test_the_schedule_counts_optimizer_steps(dataset, tmp_path):
    model, data = make(dataset, epochs=3, train_batch_size=4, gradient_accumulation_steps=4, eval_step=0,
                       lr_scheduler_type="linear", warmup_steps=1, learning_rate=0.5)
    loader, _, _ = data.loaders(model.config, model)
    trainer = GenRecTrainer(model.config, model, data.dataset, tmp_path / "model")
    rates = []
    trainer.optimizer.register_step_pre_hook(lambda *_: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    trainer.fit(loader, None)
    steps = 3 * -(-len(loader) // 4)
    assert len(loader) % 4 and len(rates) == steps
    assert rates[0] == 0 and max(rates) == 0.5 and rates[-1] == pytest.approx(0.5 / (steps - 1))


def test_an_average_of_the_weights_is_evaluated_and_kept_and_training_goes_on_without_it(dataset, tmp_path):
    model, data = make(dataset, epochs=3, train_batch_size=8, eval_step=1, ema_decay=0.5)
    train, valid, _ = data.loaders(model.config, model)
    trainer = GenRecTrainer(model.config, model, data.dataset, tmp_path)
    weight = next(model.parameters())
    expected, seen, steps = weight.detach().clone(), [], 0

    def after_step(*_):
        nonlocal expected, steps
        steps += 1
        kept = min(0.5, steps / (steps + 9))
        expected = kept * expected + (1 - kept) * weight.detach()

    def evaluated(*arguments, **more):
        seen.append((weight.detach().clone(), expected.clone()))
        return GenRecTrainer.evaluate(trainer, *arguments, **more)

    trainer.optimizer.register_step_post_hook(after_step)
    trainer.evaluate = evaluated
    trainer.fit(train, valid, show_progress=False)
    last = weight.detach().clone()
    assert len(seen) == 3 and all(torch.allclose(mine, average, atol=1e-6) for mine, average in seen)
    assert not torch.allclose(last, expected, atol=1e-4)
    trainer.load_best()
    assert any(torch.equal(weight, mine) for mine, _ in seen)


# ------------------------------------------------------------------------------------ checkpointing, compilation

@pytest.mark.parametrize("layout", ["continuation", "shared_prefix"])
@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_nothing_but_memory(dataset, tmp_path, layout, lora):
    more = {"layout": layout}
    if lora:
        tokenizer = train_tokenizer(["Toy long", *map(str, range(30)), "\n"], 400)
        tokenizer.save_pretrained(tmp_path)
        tiny_model("llama", vocab=len(tokenizer)).save_pretrained(tmp_path)
        more |= {"llm": str(tmp_path), "max_prompt_tokens": 150, "lora_dropout": 0.0}
    results = []
    for checkpointing in (False, True):
        model, data = make(dataset, gradient_checkpointing=checkpointing, **more)
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)  # zero at first, so that A would have no gradient
        assert model.backbone.core.is_gradient_checkpointing == checkpointing
        results.append(loss_and_gradients(model.train(), data.parts[0][torch.arange(0, 60, 5)]))
    assert results[0][1] and all(gradient.abs().sum() > 0 for gradient in results[0][1].values())
    assert_same(*results)


def test_training_is_compiled_where_asked(dataset, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda **inputs: calls.append(1) or function(**inputs))
    calls = []
    plain, data = make(dataset)
    compiled, _ = make(dataset, torch_compile=True)
    interaction = data.parts[0][torch.arange(8)]
    expected = loss_and_gradients(plain, interaction)
    assert not calls
    assert_same(loss_and_gradients(compiled, interaction), expected)
    assert calls


@pytest.mark.parametrize("setting", ["gradient_accumulation_steps=0", "gradient_accumulation_steps=1.5",
                                     "gradient_checkpointing=maybe", "torch_compile=often"])
def test_other_values_are_refused_in_one_line(capsys, dataset, tmp_path, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={dataset}", f"--{setting}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and setting.split("=")[0] in error


@pytest.mark.parametrize("learner", ["adam", "adamw"])
def test_the_fast_form_of_an_optimizer_takes_the_same_steps(dataset, tmp_path, learner):
    config = config_of(dataset, "GenRec", gpu_id="", precision="fp32", learner=learner)
    data = Data.load(config)
    model = GenRec(config, data.parts[0])
    slow = copy.deepcopy(model)
    ours = GenRecTrainer(config, model, data.dataset, tmp_path / "model").optimizer
    theirs = type(ours)(slow.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"], fused=False)
    assert all(group["fused"] for group in ours.param_groups)
    for _ in range(3):
        for pair in zip(model.parameters(), slow.parameters()):
            gradient = torch.randn_like(pair[0])
            for weight in pair:
                weight.grad = gradient.clone()
        for optimizer in (ours, theirs):
            optimizer.step()
    for one, other in zip(model.parameters(), slow.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


SUBNORMALS = """
import torch
from recbole_genrec.running.runtime import subnormals_flushed
with subnormals_flushed():
    print(torch.get_num_threads(), int((torch.full((1 << 22,), 2e-38) * 1e-2).count_nonzero()))
print(int((torch.full((8,), 2e-38) * 1e-2).count_nonzero()))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_are_zero_to_every_thread_and_numbers_again_afterwards(threads):
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", SUBNORMALS], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True)
    assert done.stdout.split() == [str(threads), "0", "8"]


@pytest.mark.parametrize("command, where", [("run", "suite.carry_out"), ("tune", "tuning.carry_out"),
                                            ("reproduce", "reproduce.reproduce")])
def test_commands_that_train_take_subnormal_numbers_for_zero(monkeypatch, command, where):
    def subnormals(*_) -> int:
        return int((torch.full((8,), 2e-38) * 1e-2).count_nonzero())

    monkeypatch.setattr(f"recbole_genrec.{where}", subnormals)
    named = ["run"] if command == "reproduce" else ["--model=SASRec", "--dataset=ml-100k"]
    assert main([command, *named]) == 0
    assert subnormals() == 8
