"""Training: this package beside the recipe as peers run it, and beside Hugging Face's Trainer with peft's LoRA.

Speed is supervised targets (titles) a second, in fp32, from making a batch to the optimizer's step. Peers train one
sample a prefix, in random batches padded to the longest row, with the model's own loss (logits at every position). All
sides learn the same titles; before anything is timed, each side's loss is compared with the Hugging Face model's own
on the same samples, one row at a time. Each side runs in the batch size that suits it best here, in turn with the
others, and medians are compared. The LoRA runs are processes of their own, so that their peak memory is their own.

    python benchmarks/training.py --data_path dataset --output training.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
import transformers
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from torch import Tensor

from recbole_genrec.backbone.head import sum_in_pieces
from recbole_genrec.backbone.loading import compute_dtype
from recbole_genrec.config import Config
from recbole_genrec.data.files import atomic_file
from recbole_genrec.data.loading import Data
from recbole_genrec.evaluation.cost import Peak, Work, processor
from recbole_genrec.model.sequential_recommender.genrec import GenRec

#: Batch sizes among which each side chooses.
BATCHES = {"peers": (4, 8, 16), "per_target": (8, 16, 32), "shared_prefix": (4, 8, 16), "continuation": (8, 16, 32)}
#: Losses that differ by less, relatively, are the same.
SAME = 1e-4
LORA = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_modules": ["q_proj", "v_proj"]}


def configure(dataset: str, data_path: str, **more) -> Config:
    """What every side has in common."""
    return Config("GenRec", dataset, config_dict={
        "data_path": data_path, "precision": "fp32", "objective": "vocabulary", "gpu_id": "", "show_progress": False,
        "MAX_ITEM_LIST_LENGTH": 50, **more})


# --------------------------------------------------------------------------------------------- the peers' recipe

def labelled(model: GenRec, interaction) -> dict[str, Tensor]:
    """Rows of one sample a prefix for a Hugging Face model: labels are -100 but for the target's tokens."""
    history = interaction[model.ITEM_SEQ]
    batch = model.prompts(history, interaction[model.ITEM_ID], random_instruction=True)
    answer = batch.mask & (batch.segment == history.size(1) + 2)
    if not model.has_suffix(model.config):  # continuation: every title is learnt
        answer = batch.mask & (batch.segment > 0)
    model.work = Work(targets=len(history), tokens=batch.lengths.sum(), places=batch.tokens.numel())
    return {"input_ids": batch.tokens, "attention_mask": batch.mask.long(),
            "labels": batch.tokens.masked_fill(~answer, -100)}


def peers_loss(model: GenRec, interaction) -> Tensor:
    """Hugging Face's own loss."""
    return model.backbone.core(**labelled(model, interaction), use_cache=False).loss


def prefixes(model: GenRec, interaction) -> Interaction:
    """Windows as one sample a prefix: the samples that ``shared_prefix`` says it trains on."""
    history, target = interaction[model.ITEM_SEQ], interaction[model.ITEM_ID]
    rows = []
    for items, last in zip(history.tolist(), target.tolist()):
        items = [item for item in items if item] + [last]
        rows += [(items[:end] + [0] * (history.size(1) - end), items[end]) for end in range(1, len(items))]
    return Interaction({model.ITEM_SEQ: torch.tensor([row for row, _ in rows]),
                        model.ITEM_ID: torch.tensor([item for _, item in rows])})


# --------------------------------------------------------------------------------------------------------- sides

class Side:
    """One way to train: a model in a layout, its optimizer, its batches."""

    def __init__(self, kind: str, data: Data, config: Config):
        init_seed(config["seed"], True)
        self.kind, self.data, self.config = kind, data, config
        self.model = GenRec(config, data.parts[0]).train()
        self.loss = peers_loss if kind == "peers" else GenRec.calculate_loss
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.size, self.stream = 0, iter(())

    def difference(self) -> float:
        """How far this side's loss is from Hugging Face's on the same samples, row by row; relative."""
        train, rows = self.data.parts[0], self.model.training_rows(self.data.parts[0])
        rows = torch.arange(len(train)) if rows is None else rows
        short = self.model.training_lengths(train)[rows] < self.model.prompts.max_tokens // 2  # nothing is cut there
        interaction = train[rows[short][:: max(1, int(short.sum()) // 32)][:32]]
        count, self.model.prompts.n_prefixes = self.model.prompts.n_prefixes, 1
        self.model.eval()
        with torch.no_grad():
            ours = float(self.loss(self.model, interaction))
            alone = prefixes(self.model, interaction) if self.kind == "shared_prefix" else interaction
            total = tokens = 0.0
            for row in range(len(alone[self.model.ITEM_ID])):
                inputs = labelled(self.model, alone[torch.tensor([row])])
                learnt = int((inputs["labels"] >= 0).sum())
                total += float(self.model.backbone.core(**inputs).loss) * learnt
                tokens += learnt
        self.model.train()
        self.model.prompts.n_prefixes = count
        return abs(ours / (total / tokens) - 1)

    def batches(self):
        """Endless batches of ``self.size``, as this side draws them: at random, or of like length."""
        self.config["train_batch_size"] = self.size
        loader = self.data.loaders(self.config, None if self.kind == "peers" else self.model)[0]
        while True:
            yield from loader

    def run(self, size: int, seconds: float) -> tuple[Work, float]:
        """Train in batches of that size for that long. Returns the work done and targets a second."""
        if size != self.size:
            self.size = size
            self.stream = self.batches()
            next(self.stream)  # the order of the epoch is drawn with its first batch
        work, began = Work(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.optimizer.zero_grad()
            self.loss(self.model, next(self.stream)).backward()
            self.optimizer.step()
            work = work + self.model.work
        return work.numbers(), int(work.targets) / (time.perf_counter() - began)


def compare(sides: dict[str, Side], rounds: int, seconds: float) -> dict[str, dict]:
    """Each side in its best batch size, in turn with the others.

    Returns:
        by side: batch size, median targets a second, padding share, tokens read a target.
    """
    for name, side in sides.items():
        if (difference := side.difference()) > SAME:
            sys.exit(f"{name}: the loss differs from Hugging Face's by {difference:.1e} of it: no ratio")
    best = {}
    for name, side in sides.items():
        speed = {size: side.run(size, seconds / 2)[1] for size in BATCHES[side.kind]}
        best[name] = max(speed, key=speed.get)
    done: dict[str, list[tuple[Work, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            done[name].append(side.run(best[name], seconds))
    result = {}
    for name, runs in done.items():
        total = sum((work for work, _ in runs), Work())
        result[name] = {"batch": best[name], "targets_per_second": statistics.median(speed for _, speed in runs),
                        "padding_share": 1 - total.tokens / total.places,
                        "tokens_per_target": total.tokens / total.targets}
    return result


# ----------------------------------------------------------------------------- LoRA, in processes of their own

def lora_ours(options: argparse.Namespace, folder: str, layout: str) -> dict:
    """The paper's recipe by this package."""
    config = configure(options.dataset, options.data_path, llm=folder, layout=layout, **LORA)
    data = Data.load(config)
    side = Side(layout, data, config)
    result = {"difference": side.difference()}
    side.run(8, 1)
    peak = Peak(config["device"])
    return {**result, "targets_per_second": side.run(8, options.seconds)[1], **peak.record()}


def lora_trainer(options: argparse.Namespace, folder: str, layout: str) -> dict:
    """The paper's recipe by Hugging Face's Trainer: samples tokenised beforehand, padded by its own collator."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    config = configure(options.dataset, options.data_path, llm=folder, layout=layout, **LORA)
    data = Data.load(config)
    side = Side("peers", data, config)
    model, train = side.model, data.parts[0]
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))[:4096]
    inputs = labelled(model, train[rows])
    samples = [{"input_ids": tokens[:length], "labels": labels[:length]} for tokens, labels, length in
               zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), inputs["attention_mask"].sum(1).tolist())]
    result = {"difference": side.difference()}
    with tempfile.TemporaryDirectory() as output:
        def train_for(steps: int) -> float:
            arguments = TrainingArguments(output, max_steps=steps, per_device_train_batch_size=8, learning_rate=3e-4,
                                          report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
                                          use_cpu=True, dataloader_pin_memory=False)
            trainer = Trainer(model.backbone.model, arguments, train_dataset=samples,
                              data_collator=DataCollatorForSeq2Seq(model.tokenizer))
            return trainer.train().metrics["train_runtime"]

        steps = max(8, int(8 * options.seconds / train_for(8)))
        peak = Peak(config["device"])
        return {**result, "targets_per_second": 8 * steps / train_for(steps), **peak.record()}


def head(options: argparse.Namespace, how: str) -> dict:
    """Memory of loss and gradients of a head over 128k tokens, at 2,048 positions: in pieces or at once."""
    linear, states = torch.nn.Linear(128, 128_000, bias=False), torch.randn(2048, 128, requires_grad=True)
    target, peak = torch.randint(128_000, (2048,)), Peak(torch.device("cpu"))

    def loss(part: Tensor, rows: slice) -> Tensor:
        return torch.nn.functional.cross_entropy(linear(part), target[rows], reduction="sum")

    before = peak.record()["peak_memory_mb"]
    total = sum_in_pieces(loss, states, linear.parameters(), 128_000) if how == "pieces" else loss(states, slice(None))
    total.backward()
    return {"mb": peak.record()["peak_memory_mb"] - before}


STEPS = {"ours": lora_ours, "trainer": lora_trainer, "head": head}


def child(options: argparse.Namespace, step: str, *arguments: str) -> dict:
    """The result of a step in a process of its own. Exits if it fails."""
    call = [sys.executable, "-W", "ignore", __file__, "--data_path", options.data_path, "--dataset", options.dataset,
            "--seconds", str(options.seconds), "--step", step, *arguments]
    process = subprocess.run(call, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(f"{step} {' '.join(arguments)} failed")
    return json.loads(process.stdout.splitlines()[-1])


def lora(options: argparse.Namespace, data: Data, rounds: int) -> dict[str, float]:
    """Our LoRA training beside Trainer's: targets a second, peak memory, and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = GenRec(configure(options.dataset, options.data_path), data.parts[0])
        scratch.save_pretrained(Path(folder))
        calls = {"ours": ("ours", folder, "shared_prefix"), "ours_per_target": ("ours", folder, "per_target"),
                 "trainer": ("trainer", folder, "per_target")}
        done: dict[str, list[dict]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                done[name].append(child(options, *call))
                if (difference := done[name][-1]["difference"]) > SAME:
                    sys.exit(f"LoRA, {name}: the loss differs from Hugging Face's by {difference:.1e}: no ratio")
    speed, memory = ({name: statistics.median(result[key] for result in results) for name, results in done.items()}
                     for key in ("targets_per_second", "peak_memory_mb"))
    return {
        "training.vs_hf_trainer": speed["ours"] / speed["trainer"],
        "training.vs_hf_trainer_per_target": speed["ours_per_target"] / speed["trainer"],
        "training.vs_hf_trainer_memory": memory["trainer"] / memory["ours"],
        "training.vs_hf_trainer_memory_per_target": memory["trainer"] / memory["ours_per_target"],
        **{f"training.lora.{name}.targets_per_second": value for name, value in speed.items()},
        **{f"training.lora.{name}.peak_mb": value for name, value in memory.items()},
    }


def measure(options: argparse.Namespace, rounds: int) -> dict[str, float | str | None]:
    """All numbers."""
    numbers: dict[str, float | str | None] = {}
    layouts = {"toys": ("per_target", "shared_prefix", "continuation"), "ml100k": ("shared_prefix",)}
    for short, dataset, folder in (("ml100k", "ml-100k", "dataset"), ("toys", options.dataset, options.data_path)):
        config = configure(dataset, folder, layout="per_target")
        data = Data.load(config)
        sides = {"peers": Side("peers", data, config)}
        for layout in layouts[short]:
            sides[layout] = Side(layout, data, configure(dataset, folder, layout=layout))
        done = compare(sides, rounds, options.seconds)
        # The default objective: other losses than the peers', so it has no ratio.
        chosen = Side("continuation", data, configure(dataset, folder, objective="catalogue"))
        size = done.get("continuation", {"batch": 8})["batch"]
        chosen.run(size, 1)
        for layout in layouts[short]:
            numbers[f"training.{layout}_{short}"] = \
                done[layout]["targets_per_second"] / done["peers"]["targets_per_second"]
        for name, result in done.items():
            numbers |= {f"training.{short}.{name}.{key}": value for key, value in result.items()}
        numbers[f"training.{short}.continuation_catalogue.targets_per_second"] = chosen.run(size, options.seconds)[1]
        numbers[f"training.{short}.samples"] = len(data.parts[0])
        numbers[f"training.{short}.dataset"] = dataset
    numbers["training.padding_share"] = numbers["training.toys.per_target.padding_share"]
    numbers |= bf16(options, data)
    numbers |= lora(options, data, rounds // 2)
    for how in ("pieces", "whole"):
        numbers[f"training.head_128k_{how}_mb"] = child(options, "head", how)["mb"]
    weights = sum(weight.numel() for weight in chosen.model.parameters())
    return {**numbers, "training.backbone": "tiny-llama", "training.weights": weights,
            "training.vocabulary": len(chosen.model.tokenizer), "training.threads": torch.get_num_threads(),
            "training.processor": processor(), "training.torch": torch.__version__,
            "training.transformers": transformers.__version__, "training.peft": peft.__version__,
            "training.rounds": rounds, "training.lora.rounds": rounds // 2, "training.seconds": options.seconds}


def bf16(options: argparse.Namespace, data: Data) -> dict[str, float | str | None]:
    """bf16 autocast beside fp32, where the processor multiplies in bf16."""
    configs = {precision: configure(options.dataset, options.data_path, layout="per_target", precision=precision)
               for precision in ("fp32", "bf16")}
    if compute_dtype({**configs["fp32"].final_config_dict, "precision": "auto"}, True) != torch.bfloat16:
        return {"training.bf16_vs_fp32": None,
                "training.bf16_vs_fp32_reason": "the processor has neither AVX512-BF16 nor AMX"}
    speed = {}
    for precision, config in configs.items():
        side = Side("per_target", data, config)
        side.run(16, 1)
        speed[precision] = side.run(16, options.seconds)[1]
    return {"training.bf16_vs_fp32": speed["bf16"] / speed["fp32"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset", help="folder with a converted amazon-toys")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: under ten minutes")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    for name, kind in (("step", str), ("dataset", str), ("seconds", float)):  # for the processes started here
        parser.add_argument(f"--{name}", type=kind, nargs="+" if name == "step" else None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step[0]](options, *options.step[1:])))
        return 0
    options.seconds, options.dataset = 4.0 if options.quick else 5.0, "amazon-toys"
    if not atomic_file(configure("amazon-toys", options.data_path), "inter").is_file():
        print(f"no amazon-toys in {options.data_path}: using ml-100k, which ships with RecBole")
        options.data_path, options.dataset = "dataset", "ml-100k"
    numbers = measure(options, rounds=2 if options.quick else 5)
    numbers = {key: round(value, 3) if isinstance(value, float) else value for key, value in numbers.items()}
    print("\n".join(f"{key:56} {value}" for key, value in numbers.items()))
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
