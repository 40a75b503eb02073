"""What a run costs: work counted batch by batch, FLOPs against torch's own counter, every column in every record."""

from __future__ import annotations

import json
import mmap
import sys

import pytest
import torch
from conftest import tiny_model
from data_helpers import NAME, config_of, random_interactions, records, write_dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recbole_genrec.backbone import base
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.cli import main
from recbole_genrec.data.loading import Data
from recbole_genrec.evaluation.cost import Peak, Work, training_cost
from recbole_genrec.model.sequential_recommender.genrec import GenRec

LAYOUTS = ["per_target", "shared_prefix", "continuation"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(20, 25, 4, 12))


def make(dataset, **more) -> tuple[GenRec, Data]:
    config = config_of(dataset, "GenRec", precision="fp32", gpu_id="", num_beams=10, **more)
    data = Data.load(config)
    torch.manual_seed(0)
    return GenRec(config, data.parts[0]), data


@pytest.mark.parametrize("objective", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_work_is_what_stands_in_the_batch(dataset, layout, objective):
    model, data = make(dataset, layout=layout, objective=objective)
    rows = model.training_rows(data.parts[0])
    interaction = data.parts[0][torch.arange(0, 40, 3) if rows is None else rows[::2]]
    model.calculate_loss(interaction)
    work = model.work.numbers()
    items = int((interaction[model.ITEM_SEQ] > 0).sum())  # a window's targets: all items but the first, and the last
    count = len(interaction)
    assert work.targets == {"per_target": count, "shared_prefix": items, "continuation": items + count}[layout]
    lay_out = model.prompts.branched if layout == "shared_prefix" else model.prompts
    model.prompts.n_prefixes = 1
    model.calculate_loss(interaction)
    batch, work = lay_out(interaction[model.ITEM_SEQ], interaction[model.ITEM_ID]), model.work.numbers()
    assert (work.tokens, work.places) == (int(batch.mask.sum()), batch.tokens.numel())
    causal = torch.ones(batch.tokens.size(1), batch.tokens.size(1)).tril().bool()
    visible = batch.visible if layout == "shared_prefix" else causal
    assert work.pairs == int((visible & batch.mask.unsqueeze(1) & batch.mask.unsqueeze(2)).sum())
    assert work.terms == (work.targets if objective == "catalogue" else work.supervised)
    if objective == "catalogue":
        assert work.supervised <= int((batch.node > 0).sum())


def test_titles_of_the_prompt_are_no_targets(dataset):
    model, data = make(dataset, layout="per_target", objective="vocabulary", train_on_prompt=True)
    model.calculate_loss(data.parts[0][torch.arange(10)])
    work = model.work.numbers()
    assert work.targets == 10 and work.supervised == work.tokens - 10  # all but the first token of each row


@pytest.mark.parametrize("lora", [False, True])
def test_flops_are_those_that_torch_counts(dataset, tmp_path, monkeypatch, lora):
    """One row at a time, so without padding; torch counts the whole square of attention, we what is seen of it."""
    # Its counter cannot follow gradients taken within a forward pass.
    monkeypatch.setattr(base, "sum_in_pieces", lambda loss, states, *_: loss(states, torch.arange(len(states))))
    more = {}
    if lora:
        tokenizer = train_tokenizer([f"The i{n} story" for n in range(25)], 300)
        tokenizer.save_pretrained(tmp_path)
        tiny_model("gpt2", vocab=len(tokenizer)).save_pretrained(tmp_path)  # its table of positions is no matrix
        more = {"llm": str(tmp_path), "max_prompt_tokens": 150}
    model, data = make(dataset, objective="vocabulary", **more)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.calculate_loss(data.parts[0][torch.tensor([9])]).backward()
    config, work = model.backbone.core.config, model.work.numbers()
    square = 12 * config.num_hidden_layers * config.hidden_size * (work.tokens**2 - work.pairs)
    # Under LoRA nothing below the first adapter needs a gradient.
    assert counter.get_total_flops() == pytest.approx(model.training_flops(work) + square, rel=0.1 if lora else 0.01)


def test_work_adds_up():
    total = Work(targets=2, tokens=torch.tensor(5)) + Work(targets=3, tokens=torch.tensor(6), places=20)
    assert total.numbers() == Work(targets=5, tokens=11, places=20)


def test_nothing_trained_costs_nothing():
    assert training_cost(0.0, Work(), None) == {
        "train_seconds": 0.0, "targets_per_second": None, "tokens_per_second": None, "padding_share": None,
        "flops_per_target": None}


def touch(megabytes: int) -> mmap.mmap:
    """Memory of its own, in use; closing it gives it back, which freeing a tensor need not."""
    memory = mmap.mmap(-1, megabytes * 2**20)
    memory[::4096] = b"x" * (megabytes * 256)
    return memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a peak is never forgotten")
def test_peak_memory_is_that_of_the_time_since():
    with touch(200):
        before = Peak(torch.device("cpu")).record()["peak_memory_mb"]
    peak = Peak(torch.device("cpu"))
    after = peak.record()
    assert after["peak_device_memory_mb"] is None and after["peak_memory_mb"] < before - 150
    touch(100).close()
    assert peak.record()["peak_memory_mb"] > after["peak_memory_mb"] + 50


COST = {"train_seconds", "targets_per_second", "tokens_per_second", "eval_users_per_second", "peak_memory_mb",
        "peak_device_memory_mb", "flops_per_target", "trainable_parameters", "total_parameters", "padding_share"}


def test_every_record_says_what_it_cost(dataset, tmp_path):
    models = "GenRec,SASRec,GRU4Rec,S3Rec,Pop"
    assert main(["run", f"--model={models}", f"--dataset={NAME}", f"--config_files={dataset}", "--epochs=2",
                 f"--output_dir={tmp_path}", "--num_beams=10", "--pretrain_epochs=1", "--gpu_id=''",
                 "--validity_users=0"]) == 0
    header, *rows = (tmp_path / "leaderboard.csv").read_text().splitlines()
    assert set(header.split(",")) >= COST and len(rows) == 5
    by_model = {record["model"]: record for record in records(tmp_path)}
    for model, record in by_model.items():
        assert record["status"] == "ok" and record.keys() >= COST, json.dumps(record)
        assert record["peak_memory_mb"] > 0 and record["peak_device_memory_mb"] is None
        assert (record["tokens_per_second"] is None) == (model != "GenRec")
        assert (record["targets_per_second"] is None) == (record["flops_per_target"] is None) == (model == "Pop")
    ours = by_model["GenRec"]
    assert 0 <= ours["padding_share"] < 0.5 and ours["tokens_per_second"] > ours["targets_per_second"] > 0
    # Two operations a weight forward, four backward, for each of the items that a sequence's last state is scored by.
    assert by_model["SASRec"]["flops_per_target"] > 6 * 64 * 25
