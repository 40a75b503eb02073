"""Constrained beam search: this package against Hugging Face's ``generate(prefix_allowed_tokens_fn=...)``.

Both decode the same prompts with the same weights, beams and scores (plain log-probability of the title), in fp32.
The lists are compared user by user first; a ratio is printed only if all of them agree. ``generate`` copies the
prompt's keys and values once per beam, so on a CPU it is fastest in small batches: those are measured too.

    python benchmarks/decoding.py --data_path dataset --output decoding.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import torch
from recbole.utils import init_seed

from recbole_genrec.benchmark import Data
from recbole_genrec.config import Config
from recbole_genrec.decoding.beam import beam_search
from recbole_genrec.model.sequential_recommender.genrec import GenRec
from recbole_genrec.prompt import Batch
from recbole_genrec.validation import atomic_file

BEAMS, LIST, BATCH = 20, 10, 32
#: Batch sizes in which ``generate`` gets another chance.
SMALL = (2, 4, 8)
#: Two scores nearer than this are a tie: the order of such items depends on rounding.
TIE = 1e-4


def trained_model(config: Config, steps: int) -> tuple[GenRec, list[Batch]]:
    """A tiny model after some steps of training, and prompts of test users, ``BATCH`` a batch."""
    data = Data.load(config)
    init_seed(config["seed"], True)
    model = GenRec(config, data.parts[0])
    train, _, test = data.loaders(config, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for interaction in islice(cycle(train), steps):
        optimizer.zero_grad()
        loss = model.calculate_loss(interaction)
        loss.backward()
        optimizer.step()
    print(f"trained {steps} steps, loss {float(loss.detach()):.3f}")
    model.eval()
    return model, [model.prompt_of(interaction) for interaction, *_ in test]


class PrefixCallback:
    """``prefix_allowed_tokens_fn`` as one writes it: a dictionary from the tokens so far to those allowed next."""

    def __init__(self, model: GenRec):
        self.end, self.start = model.index.terminator, 0
        allowed: dict[tuple[int, ...], set[int]] = {}
        self.item: dict[tuple[int, ...], int] = {}
        for item in range(1, model.index.n_items):
            spelling = tuple(model.index.spelling(item))
            self.item[spelling] = item
            for length, token in enumerate(spelling):
                allowed.setdefault(spelling[:length], set()).add(token)
        self.allowed = {prefix: list(tokens) for prefix, tokens in allowed.items()}

    def __call__(self, user: int, tokens: torch.Tensor) -> list[int]:
        return self.allowed.get(tuple(tokens[self.start:].tolist()), [self.end])


@torch.no_grad()
def by_generate(model: GenRec, prompts: Batch, callback: PrefixCallback) -> tuple[list[list[int]], torch.Tensor]:
    """Lists and scores from Hugging Face: prompts padded on the left, canonical beam search."""
    width = prompts.tokens.size(1)
    column = torch.arange(width) - (width - prompts.lengths).unsqueeze(1)
    tokens = prompts.tokens.gather(1, column.clamp(min=0)).masked_fill(column < 0, 0)
    callback.start = width
    output = model.backbone.core.generate(
        input_ids=tokens, attention_mask=(column >= 0).long(), num_beams=BEAMS, num_return_sequences=LIST,
        do_sample=False, length_penalty=0.0, early_stopping="never", max_new_tokens=int(model.index.lengths.max()),
        eos_token_id=callback.end, pad_token_id=0, prefix_allowed_tokens_fn=callback, return_dict_in_generate=True,
        output_scores=True)
    rows = output.sequences[:, width:].tolist()
    items = [callback.item[tuple(row[: row.index(callback.end) + 1])] for row in rows]
    shape = (len(prompts.tokens), LIST)
    return torch.tensor(items).view(shape).tolist(), output.sequences_scores.view(shape)


@torch.no_grad()
def by_trie(model: GenRec, prompts: Batch) -> tuple[list[list[int]], torch.Tensor]:
    """Lists and scores from this package."""
    ranking = beam_search(model.backbone.start(prompts), model.trie, LIST, BEAMS, norm="full")
    return ranking.items.tolist(), ranking.scores


def pieces(prompts: Batch, size: int) -> list[Batch]:
    """The same prompts in smaller batches, without needless padding."""
    return [prompts.rows(rows) for rows in torch.arange(len(prompts.tokens)).split(size)]


def agree(ours, theirs) -> tuple[int, int, int]:
    """Users with the same list, with lists that differ in tied scores only, and all others."""
    same = tied = 0
    for mine, yours, score, other in zip(ours[0], theirs[0], ours[1], theirs[1]):
        close = bool(torch.allclose(score, other, atol=TIE, rtol=0))
        same += close and mine == yours
        tied += close and mine != yours
    return same, tied, len(ours[0]) - same - tied


def seconds(work):
    """Result of ``work()`` and the seconds it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", default="dataset", help="folder with a converted amazon-toys")
    parser.add_argument("--users", type=int, default=128, help=f"test users, in batches of {BATCH}")
    parser.add_argument("--quick", action="store_true", help="64 users and a model that is hardly trained")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    options = parser.parse_args()
    users = min(options.users, 64) if options.quick else options.users

    settings = {"data_path": options.data_path, "objective": "vocabulary", "norm": "full", "precision": "fp32",
                "num_beams": BEAMS, "eval_batch_size": BATCH, "gpu_id": "", "show_progress": False}
    config = Config("GenRec", "amazon-toys", config_dict=settings)
    if not atomic_file(config, "inter").is_file():
        print(f"no amazon-toys in {options.data_path}: using ml-100k, which ships with RecBole")
        config = Config("GenRec", "ml-100k", config_dict=settings)
    model, batches = trained_model(config, steps=60 if options.quick else 400)
    batches = batches[: max(1, users // BATCH)]
    callback = PrefixCallback(model)
    methods = {"ours": lambda prompts: by_trie(model, prompts),
               "generate": lambda prompts: by_generate(model, prompts, callback)}
    for method in methods.values():  # warm up
        method(batches[0])

    speed = {name: [] for name in methods}
    counts = [0, 0, 0]
    for number, prompts in enumerate(batches):
        results = {}
        for name in sorted(methods, reverse=number % 2 == 1):  # in turn, so that a busy moment hits both
            results[name], took = seconds(lambda: methods[name](prompts))
            speed[name].append(len(prompts.tokens) / took)
        counts = [a + b for a, b in zip(counts, agree(results["ours"], results["generate"]))]
    same, tied, different = counts
    if different:
        print(f"the lists of {different} of {sum(counts)} users differ: no ratio", file=sys.stderr)
        return 1

    small = {}
    for size in SMALL:
        _, took = seconds(lambda: [by_generate(model, piece, callback) for piece in pieces(batches[0], size)])
        small[size] = len(batches[0].tokens) / took
    ours, theirs = (statistics.median(speed[name]) for name in ("ours", "generate"))
    numbers = {
        "decoding.llama.vs_prefix_fn": round(ours / theirs, 2), "decoding.same_top10": True,
        "decoding.llama.vs_prefix_fn_best_batch": round(ours / max(theirs, *small.values()), 2),
        "decoding.tied_users": tied, "decoding.llama.users_per_second": round(ours, 2),
        "decoding.prefix_fn.users_per_second": round(theirs, 2),
        **{f"decoding.prefix_fn.users_per_second_batch_{size}": round(value, 2) for size, value in small.items()},
        "decoding.dataset": config["dataset"],
        "decoding.users": sum(counts), "decoding.items": model.trie.n_items, "decoding.trie_nodes": len(model.trie),
        "decoding.beams": BEAMS, "decoding.batch": BATCH, "decoding.longest_title": int(model.index.lengths.max()),
        "decoding.prompt_tokens": round(statistics.mean(float(b.lengths.float().mean()) for b in batches), 1),
        "decoding.vocabulary": len(model.tokenizer), "decoding.threads": torch.get_num_threads(),
    }
    print(f"{sum(counts)} users, {model.trie.n_items} items, {BEAMS} beams: top {LIST} the same for all "
          f"({tied} up to ties)\nours {ours:.2f} users/s, generate {theirs:.2f} users/s: {ours / theirs:.1f} times\n"
          + ", ".join(f"generate in batches of {size} {value:.2f} users/s: {ours / value:.1f} times"
                      for size, value in small.items()))
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
