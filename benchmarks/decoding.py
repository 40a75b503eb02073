"""Constrained decoding: this package against Hugging Face's ``generate``, on tiny-llama and tiny-t5, in fp32.

All decode the same prompts with the same weights. First the lists are compared, user by user: our beam search with
``generate``'s (20 beams, plain log-probability of the title), the exact search with scoring the whole catalogue. A
ratio is printed only if they agree. ``generate`` gets its users in batches of 32, and once more in small batches, in
which it is fastest on a CPU; this package gets them all and makes its own.

    python benchmarks/decoding.py --data_path dataset --output decoding.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import torch
from peers import PrefixCallback, VectorisedMask, generate
from recbole.utils import init_seed
from titles_like import spellings_like

from recbole_genrec.backbone.loading import load_backbone
from recbole_genrec.config import Config
from recbole_genrec.data.files import atomic_file
from recbole_genrec.data.loading import Data
from recbole_genrec.decoding.batching import in_batches
from recbole_genrec.decoding.beam import beam_search
from recbole_genrec.decoding.best_first import best_first
from recbole_genrec.decoding.exact import exact_top_k
from recbole_genrec.decoding.tree import Ranking
from recbole_genrec.decoding.trie import Trie
from recbole_genrec.evaluation.cost import processor
from recbole_genrec.model.sequential_recommender.genrec import GenRec
from recbole_genrec.prompt import Batch

BEAMS, BATCH = 20, 32
#: Batch sizes in which ``generate`` gets another chance.
SMALL = (2, 4, 8)
#: Two scores nearer than this are a tie: the order of such items depends on rounding.
TIE = 1e-4
#: Tokens a user that exact search under ``full`` may take before it gives up the proof.
BUDGET = 4096
MILLION = 1_000_000


class Counted:
    """A decoding state that counts what is pushed."""

    def __init__(self, state):
        self.state, self.tokens, self.passes = state, 0, 0

    def __getattr__(self, name):
        return getattr(self.state, name)

    def push(self, tokens, visible, depth):
        self.tokens, self.passes = self.tokens + tokens.numel(), self.passes + 1
        return self.state.push(tokens, visible, depth)


def trained(config: Config, steps: int) -> tuple[GenRec, dict, list[Batch]]:
    """Both tiny backbones after some steps of training, and prompts of test users, ``BATCH`` a batch."""
    data = Data.load(config)
    init_seed(config["seed"], True)
    model = GenRec(config, data.parts[0])
    train, _, test = data.loaders(config, model)
    config["llm"] = "tiny-t5"
    texts = [*model.catalogue.titles[1:], *model.template.prefixes, model.template.suffix, "\n"]
    t5 = load_backbone(config, texts).backbone

    def t5_loss(interaction):
        prompts = model.prompt_of(interaction)
        tokens, _, length = model.trie.paths(interaction[model.ITEM_ID])
        labels = tokens.masked_fill(torch.arange(tokens.size(1)) >= length.unsqueeze(1), -100)
        return t5.model(input_ids=prompts.tokens, attention_mask=prompts.mask.long(), labels=labels).loss

    for name, module, loss_of in (("llama", model, model.calculate_loss), ("t5", t5, t5_loss)):
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
        module.train()
        for interaction in islice(cycle(train), steps):
            optimizer.zero_grad()
            loss = loss_of(interaction)
            loss.backward()
            optimizer.step()
        module.eval()
        print(f"{name}: {steps} steps, loss {float(loss.detach()):.3f}", flush=True)
    backbones = {"llama": (model.backbone, model.backbone.core), "t5": (t5, t5.model)}
    return model, backbones, [model.prompt_of(interaction) for interaction, *_ in test]


def together(batches: list[Batch]) -> Batch:
    """Prompts of all batches, padded alike."""
    width = max(batch.tokens.size(1) for batch in batches)
    wide = [torch.cat([torch.nn.functional.pad(getattr(batch, name), (0, width - batch.tokens.size(1)))
                       for batch in batches]) for name in ("tokens", "segment", "node", "item")]
    return Batch(wide[0], torch.cat([batch.lengths for batch in batches]), *wide[1:])


def pieces(prompts: Batch, size: int) -> list[Batch]:
    """The same prompts in smaller batches, without needless padding."""
    return [prompts.rows(rows) for rows in torch.arange(len(prompts.tokens)).split(size)]


def agree(items: list[list[int]], scores, others: list[list[int]], other_scores, k: int) -> float:
    """Share of users whose first ``k`` items are the same, items of equal score in any order; all scores must be."""
    same = 0
    for mine, yours, score, other in zip(items, others, scores, other_scores):
        close = torch.allclose(score[:k], other[:k], atol=TIE, rtol=0)
        sure = (score[:k] > score[k] + TIE).tolist() if k < len(score) else [True] * k  # not tied with the next one
        same += close and {i for i, s in zip(mine, sure) if s} <= set(yours[:k])
    return same / len(items)


def seconds(work):
    """Result of ``work()`` and the seconds it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def compare(name: str, backbone, core, model: GenRec, batches: list[Batch], callback: PrefixCallback) -> dict:
    """Lists and times of one backbone. Raises SystemExit if lists differ."""
    users, trie = together(batches), model.trie

    @torch.no_grad()
    def ours(search, prompts=users) -> Ranking:
        return in_batches(prompts.lengths, BEAMS, BATCH, lambda rows: search(backbone.start(prompts.rows(rows))))

    mask = VectorisedMask(callback, len(model.tokenizer))
    searches = {"beam": lambda state: beam_search(state, trie, BEAMS, BEAMS, "full"),
                "exact": lambda state: best_first(state, trie, BEAMS, "trie")}
    peers = {"prefix_fn": lambda prompts: generate(core, prompts, model.index, BEAMS, callback,
                                                   prefix_allowed_tokens_fn=callback),
             "mask": lambda prompts: generate(core, prompts, model.index, BEAMS, mask, logits_processor=[mask])}
    first = pieces(batches[0], 4)[0]
    for search in searches.values():  # warm up
        ours(search, first)
    for peer in peers.values():
        peer(first)

    rate, result, lists = {key: [] for key in (*searches, *peers)}, {}, {key: [] for key in peers}
    for batch in batches:  # in turn, so that a busy moment hits all
        for key, search in searches.items():
            result[key], took = seconds(lambda: ours(search))
            rate[key].append(len(users.tokens) / took)
        for key, peer in peers.items():
            found, took = seconds(lambda: peer(batch))
            rate[key].append(len(batch.tokens) / took)
            lists[key].append(found)
    speed = {key: statistics.median(values) for key, values in rate.items()}

    numbers = {}
    beam = result["beam"]
    for key in peers:
        items = [row for part, _ in lists[key] for row in part]
        scores = torch.cat([part for _, part in lists[key]])
        for k in (10, 20):
            numbers[f"decoding.{name}.{key}.same_top{k}"] = agree(beam.items.tolist(), beam.scores, items, scores, k)
    truth = ours(lambda state: exact_top_k(state, trie, BEAMS, "trie"))
    exact = result["exact"]
    numbers[f"decoding.{name}.exact_is_brute_force"] = agree(
        exact.items.tolist(), exact.scores, truth.items.tolist(), truth.scores, BEAMS) * bool(exact.exact.all())
    if wrong := [key for key, share in numbers.items() if share < 1]:
        raise SystemExit(f"lists differ ({', '.join(f'{key} {numbers[key]:.4f}' for key in wrong)}): no ratio")

    small = {}
    for size in SMALL:
        _, took = seconds(lambda: [peers["prefix_fn"](piece) for piece in pieces(batches[0], size)])
        small[size] = len(batches[0].tokens) / took
    numbers |= {
        f"decoding.{name}.vs_prefix_fn": speed["beam"] / speed["prefix_fn"],
        f"decoding.{name}.exact_vs_prefix_fn": speed["exact"] / speed["prefix_fn"],
        f"decoding.{name}.vs_logits_processor": speed["beam"] / speed["mask"],
        f"decoding.{name}.exact_vs_logits_processor": speed["exact"] / speed["mask"],
        f"decoding.{name}.vs_prefix_fn_best_batch": speed["beam"] / max(speed["prefix_fn"], *small.values()),
        f"decoding.{name}.exact_vs_prefix_fn_best_batch": speed["exact"] / max(speed["prefix_fn"], *small.values()),
        **{f"decoding.{name}.{key}_users_per_second": value for key, value in speed.items()},
        **{f"decoding.{name}.prefix_fn_users_per_second_batch_{size}": value for size, value in small.items()},
    }
    return numbers | counters(name, backbone, trie, users, truth)


@torch.no_grad()
def counters(name: str, backbone, trie: Trie, users: Batch, truth: Ranking) -> dict:
    """What does not depend on the machine: tokens and passes, and what beams lose (``truth``: under ``trie``)."""
    numbers = {}

    def run(search, rows: Batch):
        state = Counted(backbone.start(rows))
        return search(state), state

    groups = users.lengths.argsort().split(BATCH)
    for key, search in {"beam_full": lambda state: beam_search(state, trie, BEAMS, BEAMS, "full"),
                        "beam_trie": lambda state: beam_search(state, trie, BEAMS, BEAMS, "trie"),
                        "exact_trie": lambda state: best_first(state, trie, BEAMS, "trie")}.items():
        states = [run(search, users.rows(rows))[1] for rows in groups]
        numbers[f"decoding.{name}.{key}_tokens_a_user"] = sum(s.tokens for s in states) / len(users.tokens)
        numbers[f"decoding.{name}.{key}_passes"] = sum(s.passes for s in states) / len(states)

    beam = in_batches(users.lengths, 10, BATCH, lambda rows: run(
        lambda state: beam_search(state, trie, 10, BEAMS, "trie"), users.rows(rows))[0])
    numbers[f"decoding.{name}.recall_of_beam_trie"] = recall(beam.items, truth.items[:, :10])
    few = users.rows(torch.arange(min(8, len(users.tokens))))
    best = exact_top_k(backbone.start(few), trie, 10, "full")
    beam = beam_search(backbone.start(few), trie, 10, BEAMS, "full")
    numbers[f"decoding.{name}.recall_of_beam_full"] = recall(beam.items, best.items)
    found, state = run(lambda state: best_first(state, trie, 10, "full", budget=BUDGET), few)
    numbers |= {f"decoding.{name}.recall_of_exact_full_within_budget": recall(found.items, best.items),
                f"decoding.{name}.exact_full_proven_within_budget": found.exact.float().mean().item(),
                f"decoding.{name}.exact_full_tokens_a_user": state.tokens / len(few.tokens)}
    return numbers


def recall(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of the true items that were found."""
    return (truth.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean().item()


@torch.no_grad()
def growth(model: GenRec, backbones: dict, batches: list[Batch]) -> dict:
    """Building and searching a trie over a million titles, against one of the catalogue's own size."""
    users = together(batches[:2])
    tries, numbers = {}, {}
    for items in (model.trie.n_items, MILLION):
        flat, offsets = spellings_like(model.index, items)
        tries[items], took = seconds(lambda: Trie.build(flat, offsets, torch.arange(1, items + 1).numpy()))
    large = tries[MILLION]
    with tempfile.TemporaryDirectory() as folder:
        large.save(Path(folder) / "trie.safetensors")
        loaded, load = seconds(lambda: Trie.load(Path(folder) / "trie.safetensors"))
        nodes = torch.randint(len(large), (160,), generator=torch.Generator().manual_seed(0))
        nodes[:20] = torch.arange(20)
        look_ups = [seconds(lambda: loaded.children(nodes))[1] for _ in range(50)]
    numbers |= {"trie.build_1m_seconds": took, "trie.bytes_1m": large.nbytes, "trie.nodes_1m": len(large),
                "trie.load_1m_ms": 1000 * load, "trie.children_of_160_ms": 1000 * statistics.median(look_ups)}
    for name, (backbone, _) in backbones.items():
        for key, search in {"beam": lambda state, trie: beam_search(state, trie, BEAMS, BEAMS, "full"),
                            "beam_trie": lambda state, trie: beam_search(state, trie, BEAMS, BEAMS, "trie"),
                            "exact": lambda state, trie: best_first(state, trie, BEAMS, "trie")}.items():
            took = {items: [] for items in tries}
            for _ in range(3):
                for items, trie in tries.items():
                    _, passed = seconds(lambda: in_batches(
                        users.lengths, BEAMS, BATCH, lambda rows: search(backbone.start(users.rows(rows)), trie)))
                    took[items].append(passed)
            small, big = (statistics.median(values) for values in took.values())
            numbers[f"decoding.{name}.{key}_growth_12k_to_1m"] = big / small
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="dataset", help="folder with a converted amazon-toys")
    parser.add_argument("--users", type=int, default=128, help=f"test users, in batches of {BATCH}")
    parser.add_argument("--quick", action="store_true", help="64 users and models that are hardly trained")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    options = parser.parse_args()
    users = min(options.users, 64) if options.quick else options.users

    settings = {"data_path": options.data_path, "objective": "vocabulary", "norm": "full", "precision": "fp32",
                "num_beams": BEAMS, "train_batch_size": 16, "eval_batch_size": BATCH, "gpu_id": "",
                "show_progress": False}
    config = Config("GenRec", "amazon-toys", config_dict=settings)
    if not atomic_file(config, "inter").is_file():
        print(f"no amazon-toys in {options.data_path}: using ml-100k, which ships with RecBole")
        config = Config("GenRec", "ml-100k", config_dict=settings)
    model, backbones, batches = trained(config, steps=60 if options.quick else 400)
    batches = batches[: max(1, users // BATCH)]
    callback = PrefixCallback(model.index)

    numbers = {}
    for name, (backbone, core) in backbones.items():
        numbers |= compare(name, backbone, core, model, batches, callback)
    numbers |= growth(model, backbones, batches)
    numbers |= {
        "decoding.same_top10": min(value for key, value in numbers.items() if key.endswith("same_top10")),
        "decoding.growth_12k_to_1m": max(value for key, value in numbers.items() if key.endswith("growth_12k_to_1m")),
        "decoding.dataset": config["dataset"], "decoding.users": sum(len(batch.tokens) for batch in batches),
        "decoding.items": model.trie.n_items, "decoding.trie_nodes": len(model.trie), "decoding.beams": BEAMS,
        "decoding.batch": BATCH, "decoding.longest_title": int(model.index.lengths.max()),
        "decoding.prompt_tokens": statistics.mean(float(b.lengths.float().mean()) for b in batches),
        "decoding.vocabulary": len(model.tokenizer), "decoding.threads": torch.get_num_threads(),
        "decoding.processor": processor(), "decoding.torch": torch.__version__,
    }
    numbers = {key: round(value, 4) if isinstance(value, float) else value for key, value in numbers.items()}
    print("\n".join(f"{key:52} {value}" for key, value in numbers.items()))
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
