"""Training: this package beside the recipe as peers run it, and beside Hugging Face's Trainer with peft's LoRA.

Speed is supervised targets (titles) a second of forward pass, backward pass and optimizer step, in fp32, without the
time in which batches are made of interactions (a Trainer's data set is made beforehand too). Peers train one sample a
prefix, in random batches padded to the longest row, with logits at every position. All sides have the same weights and
learn the same titles; before a ratio is printed, the losses of all sides are compared on the same samples. Each side
runs in the batch size that suits it best here (both are printed), in turn with the others, and medians are compared.

    python benchmarks/training.py --data_path dataset --output training.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from recbole.utils import init_seed
from torch import Tensor

from recbole_genrec.backbone.loading import compute_dtype
from recbole_genrec.benchmark import Data
from recbole_genrec.config import Config
from recbole_genrec.evaluation.cost import Work
from recbole_genrec.model.sequential_recommender.genrec import GenRec
from recbole_genrec.prompt import Batch
from recbole_genrec.validation import atomic_file

LAYOUTS = ("per_target", "shared_prefix", "continuation")
#: Batch sizes among which each side chooses.
BATCHES = {"peers": (4, 8, 16), "per_target": (16, 32), "shared_prefix": (4, 8, 16), "continuation": (16, 32)}
#: Two losses that differ by less (relatively) are the same in fp32.
SAME = 1e-4
#: LoRA as the paper has it; the Trainer's batch is that of its published code (128 samples in micro-batches of 4).
LORA_STEPS = 12


def settings(options: argparse.Namespace, **more) -> dict:
    """What every side has in common."""
    return {"data_path": options.data_path, "precision": "fp32", "objective": "vocabulary", "norm": "full",
            "gpu_id": "", "show_progress": False, "MAX_ITEM_LIST_LENGTH": 50, **more}


# --------------------------------------------------------------------------------------------------------- sides

class Side:
    """One way to train: a model, and what to do with a batch of interactions.

    Args:
        config: its layout and objective.
        data: the data set, loaded once for all sides.
        peers: the peers' recipe instead of ours.
    """

    def __init__(self, config: Config, data: Data, peers: bool = False):
        init_seed(config["seed"], True)
        self.config, self.data, self.peers = config, data, peers
        self.model = GenRec(config, data.parts[0]).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def loss(self, interaction) -> Tensor:
        return peers_loss(self.model, interaction) if self.peers else self.model.calculate_loss(interaction)

    def batches(self, size: int, seed: int):
        """Endless batches as this side draws them: at random, or of like length."""
        self.config["train_batch_size"], self.config["seed"] = size, seed
        if self.peers:
            rows = torch.randperm(len(self.data.parts[0]), generator=torch.Generator().manual_seed(seed))
            while True:
                yield from (self.data.parts[0][part] for part in rows.split(size))
        train, _, _ = self.data.loaders(self.config, self.model)
        while True:
            yield from train

    def train(self, batches, seconds: float) -> tuple[float, Work]:
        """Train for that long. Returns the seconds of the steps alone and the work done."""
        spent, work = 0.0, Work()
        while spent < seconds:
            interaction = next(batches)
            began = time.perf_counter()
            self.optimizer.zero_grad()
            self.loss(interaction).backward()
            self.optimizer.step()
            spent += time.perf_counter() - began
            work = work + self.model.work
        return spent, work.numbers()


def peers_batch(model: GenRec, interaction) -> tuple[Batch, Tensor]:
    """Rows of one sample a prefix, and their labels: -100 but for the target's tokens."""
    history = interaction[model.ITEM_SEQ]
    batch = model.prompts(history, interaction[model.ITEM_ID], random_instruction=True)
    answer = batch.mask & (batch.segment == history.size(1) + 2)
    return batch, batch.tokens.masked_fill(~answer, -100)


def peers_loss(model: GenRec, interaction) -> Tensor:
    """The recipe of peers: Hugging Face's own loss, which makes the logits of every position."""
    batch, labels = peers_batch(model, interaction)
    model.work = Work(targets=len(labels), tokens=batch.lengths.sum(), places=batch.tokens.numel())
    return model.backbone.core(input_ids=batch.tokens, attention_mask=batch.mask.long(), labels=labels,
                               use_cache=False).loss
