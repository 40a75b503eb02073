"""What every generative recommender shares: backbone, item index, prompts, decoding, saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.loading import compute_dtype, family_of, load_backbone, resolve
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.windows import CANDIDATES, HISTORY, TARGET_ROW, one_in
from recbole_genrec.decoding.batching import in_batches, users_that_fit
from recbole_genrec.decoding.beam import beam_search
from recbole_genrec.decoding.best_first import best_first
from recbole_genrec.decoding.exact import exact_top_k, score_catalogue, score_items
from recbole_genrec.decoding.free import free_beams
from recbole_genrec.decoding.tree import NEVER, DecodingState, Ranking, side_by_side
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.cost import Work, language_model_flops
from recbole_genrec.index import ItemIndex, Material, build_index
from recbole_genrec.index.registry import gather
from recbole_genrec.prompt import Rows

#: File of a saved model that holds what we added to the Hugging Face model.
ADDITIONS = "additions.safetensors"


class GenerativeRecommender(SequentialRecommender):
    """A language model that spells the next item token by token (RecBole model).

    A subclass says in :attr:`families` what it can have for a backbone, in :meth:`read_wording`, :meth:`make_index`
    and :meth:`make_prompts` what the backbone reads, and in ``calculate_loss`` what it learns.

    Scores are log-probabilities of items given the history: ``full_sort_predict`` gives those of the decoded
    items and ``-inf`` elsewhere, ``predict`` that of a given item.
    """

    generative = True
    #: Kind of architecture -> class that puts it behind our interface.
    families: Mapping[str, type] = {CausalBackbone.kind: CausalBackbone}

    #: Whether a prompt may tell of a whole history, not of its last MAX_ITEM_LIST_LENGTH items alone.
    whole_histories = False

    #: Text that stands before every title.
    lead = ""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.catalogue = Catalogue.from_dataset(dataset)
        # The tokenizer of a scratch backbone sees titles and wording, one entry each: no user's sequence.
        texts = [*(self.lead + title for title in self.catalogue.titles[1:]), *self.read_wording(config, dataset), "\n"]
        loaded = load_backbone(config, texts, self.families)
        self.backbone, self.tokenizer, self.pretrained = loaded.backbone, loaded.tokenizer, loaded.pretrained
        material = Material(self.catalogue, self.tokenizer, config["seed"], options=config.final_config_dict)
        self.index = self.make_index(gather(config["item_index"], material, dataset))
        self.trie = self.index.trie.to(self.device)
        self.prompts = self.make_prompts()
        if self.pretrained:
            self._take_over(Path(resolve(str(config["llm"]))) / ADDITIONS)
        self.dtype = compute_dtype(config, self.pretrained)
        self.topk = max(config["topk"])
        chosen = config["prompt_eval"]
        #: Sets of prompts to evaluate, the one of validation first; none for a model that has no such sets.
        self.prompt_sets = () if chosen is None else ("seen", "unseen") if chosen == "both" else (chosen,)
        self.prompt_set = self.prompt_sets[0] if self.prompt_sets else None
        self.lists = self.exact_lists = 0  # decoded so far, and those of them that are proven exact
        self._check_fit()

    @classmethod
    def check_config(cls, config) -> None:
        """Refuse what can be seen to be wrong before any data are read.

        Raises:
            UserError: unknown prompt or backbone, or a loss that a generative model does not have.
        """
        if config["loss_type"] != "CE":
            raise UserError(f"{cls.__name__} has no loss_type={config['loss_type']}: a generative model learns by CE")
        if config["candidates"] is not None and config["decode"] == "free":
            raise UserError("decode=free ranks what the model writes, and with candidates the listed items are scored: "
                            "leave one of them out")
        found = resolve(str(config["llm"]))
        if isinstance(found, dict):
            family_of(found["kind"], config["llm"], cls.families, cls.__name__)

    def read_wording(self, config, dataset) -> list[str]:
        """Read what stands around the items, and return it: a scratch backbone's tokenizer is trained on it too."""
        raise NotImplementedError  # RecBole's convention for what a model must define

    def make_index(self, material: Material) -> ItemIndex:
        """How items are spelled."""
        return build_index(self.config["item_index"], material)

    def make_prompts(self):
        """The builder of prompts, with ``max_tokens`` and ``largest_token``."""
        raise NotImplementedError  # a model's own, like all of these

    def _check_fit(self) -> None:
        """Refuse spellings that the backbone cannot read: token ids or prompts beyond what it was made for."""
        embedded = self.backbone.core.config.vocab_size
        if (largest := self.prompts.largest_token) >= embedded:
            raise UserError(f"--llm={self.config['llm']}: its tokenizer gives token {largest}, but the model embeds "
                            f"only {embedded}")
        limit = self.backbone.max_positions
        title = int(self.index.lengths.max()) if self.backbone.answers_take_positions else 0
        longest = self.prompts.max_tokens + title
        window = self.backbone.window
        if window is not None and longest > window:
            raise UserError(
                f"--llm={self.config['llm']} looks back {window} tokens in some of its layers, but a prompt of "
                f"max_prompt_tokens={self.prompts.max_tokens} and the longest title need {longest}; lower "
                "max_prompt_tokens")
        if limit is not None and longest > limit:
            raise UserError(
                f"--llm={self.config['llm']} takes {limit} tokens, but a prompt of max_prompt_tokens="
                f"{self.prompts.max_tokens} and the longest title need {longest}; lower max_prompt_tokens"
                + (f" (one title alone needs {int(self.index.lengths.max())})"
                   if self.prompts.max_tokens > self.config["max_prompt_tokens"] else ""))

    # ----------------------------------------------------------------------------------------------- training

    def _sum(self, loss: Callable[[Tensor, Tensor], Tensor], states: Tensor, taken: Tensor) -> Tensor:
        """Sum of a loss of logits and what was taken there, over ``[N, d]`` states."""
        return self.backbone.sum_over_logits(lambda logits, rows: loss(logits, taken[rows]), states)

    @staticmethod
    def _vocabulary_loss(logits: Tensor, token: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits.float(), token, reduction="sum")

    def training_flops(self, work: Work) -> float:
        """FLOPs of that work (see evaluation/cost.py)."""
        return language_model_flops(self.backbone, work)

    def _every(self, dataset, stride: int) -> Tensor | None:
        """``[M]`` one of every ``stride`` training samples of a user, counted back from the last; None for all."""
        return None if stride == 1 else one_in(dataset, stride)

    def _window_tokens(self, dataset, longest: int) -> Tensor:
        """``[N]`` int64 tokens of each sample's target and of the up to ``longest`` items before it."""
        sequences, row = dataset.sequences, dataset.inter_feat[TARGET_ROW]
        before = torch.nn.functional.pad(self.index.lengths[sequences.item].cumsum(0), (1, 0))
        return before[row + 1] - before[torch.maximum(sequences.start[row], row - longest)]

    def autocast(self):
        """bf16 arithmetic where ``precision`` says so."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    # --------------------------------------------------------------------------------------------- prediction

    def prompt_of(self, interaction) -> Rows:
        """Prompts of a batch, from what was before each target (other columns may describe the target)."""
        raise NotImplementedError  # a model's own

    @torch.no_grad()
    def recommend(self, interaction, k: int) -> Ranking:
        """The best ``k`` items of each row; items in the row's ``HISTORY`` column, where it has one, are left out."""
        banned = interaction[HISTORY] if HISTORY in interaction else None
        prompts = self.prompt_of(interaction)
        ranking = in_batches(prompts.lengths, k, self._users_at_a_time(prompts), lambda rows: self._decode(
            prompts.rows(rows), k, None if banned is None else banned[rows]))
        self.lists += len(ranking.exact)
        self.exact_lists += int(ranking.exact.sum())
        return ranking

    def _begin(self, prompts: Rows) -> DecodingState:
        """What a search begins with: the prompts, read."""
        return self.backbone.start(prompts)

    def _decode(self, prompts: Rows, k: int, banned: Tensor | None) -> Ranking:
        decode, norm = self.config["decode"], self.config["norm"]
        if decode == "free":
            items, _, scores = self.write(prompts, max(k, self.config["num_beams"]))
            return self._free_ranking(items, scores, k, banned)
        with self.autocast():
            state = self._begin(prompts)
            if decode == "exact_all":
                return exact_top_k(state, self.trie, k, norm, banned)
            if decode == "exact_topk":
                return best_first(state, self.trie, k, norm, banned, self.config["decode_budget"])
            return beam_search(state, self.trie, k, self.config["num_beams"], norm, banned)

    #: Judges places within entities while text is written freely; None for a model that knows none.
    positions = None

    @torch.no_grad()
    def write(self, prompts: Rows, beams: int) -> tuple[Tensor, list[list[str]], Tensor]:
        """What the model writes when nothing constrains it.

        Returns:
            ``[B, beams]`` int64 the item whose spelling an output is, white space aside (the paper's match), 0 for
            none; the outputs as text; ``[B, beams]`` their log-probabilities.
        """
        with self.autocast():
            tokens, scores = free_beams(self.backbone.start(prompts), self.index.terminator, beams,
                                        int(self.index.lengths.max()), self.positions)
        lengths = (tokens != self.index.terminator).sum(2)
        outputs = [row[:length] for row, length in zip(tokens.flatten(0, 1).tolist(), lengths.flatten().tolist())]
        texts = [" ".join(text.split()) for text in self.tokenizer.batch_decode(outputs, skip_special_tokens=True)]
        items = torch.tensor([self.spelled.get(text, 0) for text in texts], device=tokens.device)
        rows = [texts[begin:begin + beams] for begin in range(0, len(texts), beams)]
        return items.view(scores.shape), rows, scores

    @cached_property
    def spelled(self) -> dict[str, int]:
        """Item by spelling, white space aside, as the tokenizer writes it (BERT's has no capitals)."""
        texts = self.tokenizer.batch_decode([self.index.spelling(item)[:-1] for item in range(1, self.index.n_items)])
        return {" ".join(text.split()): item for item, text in enumerate(texts, 1)}

    def _free_ranking(self, items: Tensor, scores: Tensor, k: int, banned: Tensor | None) -> Ranking:
        """The items among the outputs, each once; the rest takes no rank."""
        again = (items.unsqueeze(1) == items.unsqueeze(2)).tril(-1).any(2)
        out = again | (items == 0)
        if banned is not None:
            out |= (items.unsqueeze(2) == banned.unsqueeze(1)).any(2)
        ranking = Ranking.empty(len(items), k, items.device)
        ranking.add(items, scores.masked_fill(out, NEVER))
        return ranking

    def full_sort_predict(self, interaction) -> Tensor:
        """``[B * n_items]`` log-probabilities of the decoded items, ``-inf`` for all others.

        Where a row lists its ``CANDIDATES``, nothing is decoded: they are scored, each and only they.
        """
        if CANDIDATES in interaction:
            items = interaction[CANDIDATES]
            found = self.score_candidates(interaction, items)
        else:
            ranking = self.recommend(interaction, min(self.topk, self.trie.n_items))
            items, found = ranking.items, ranking.scores
        scores = torch.full((len(items), self.n_items), -torch.inf, device=self.device)
        scores.scatter_(1, items, found)  # absent items share id 0, the padding
        scores[:, 0] = -torch.inf
        return scores.flatten()

    @torch.no_grad()
    def score_all(self, interaction) -> Tensor:
        """``[B, n_items]`` exact log-probability of every item, ``-inf`` for the padding."""
        with self.autocast():
            return score_catalogue(self._begin(self.prompt_of(interaction)), self.trie, self.config["norm"])

    @torch.no_grad()
    def predict(self, interaction) -> Tensor:
        """``[B]`` log-probability of each row's item, by teacher forcing (no decoding, so never ``-inf``).

        Neighbouring rows of one sample (sampled evaluation: a target and its negatives) read its prompt once.
        """
        items = interaction[self.ITEM_ID]
        # Without a sample's number each row is a sample of its own.
        sample = interaction[TARGET_ROW] if TARGET_ROW in interaction else torch.arange(len(items))
        _, count = sample.to(items.device).unique_consecutive(return_counts=True)
        prompts = self.prompt_of(interaction[count.cumsum(0) - count])
        candidates = side_by_side(items, count, 1)
        real = side_by_side(torch.ones_like(items, dtype=torch.bool), count, False)
        return self._score(prompts, candidates, self.config["norm"])[real]

    def score_candidates(self, interaction, candidates: Tensor) -> Tensor:
        """``[B, C]`` log-probabilities of each row's ``[B, C]`` candidates."""
        return self._score(self.prompt_of(interaction), candidates, self.config["norm"])

    @torch.no_grad()
    def _score(self, prompts: Rows, candidates: Tensor, norm: str) -> Tensor:
        """``[B, C]`` log-probabilities of ``[B, C]`` items, as many prompts at a time as memory holds."""
        scores = torch.empty(candidates.shape, device=candidates.device)
        longest = prompts.tokens.size(1) + candidates.size(1) * int(self.index.lengths.max())
        size = users_that_fit(self.backbone.bytes_per_token, longest, self.device)
        for rows in prompts.lengths.argsort().split(size):
            with self.autocast():
                state = self._begin(prompts.rows(rows))
                scores[rows] = score_items(state, self.trie, candidates[rows], norm)
        return scores

    def _users_at_a_time(self, prompts: Rows) -> int:
        return users_that_fit(self.backbone.bytes_per_token, prompts.tokens.size(1), self.device)

    # ------------------------------------------------------------------------------------------ saving, report

    def save_pretrained(self, folder: Path) -> None:
        """Write the trained weights (safetensors: LoRA's adapter, or the whole scratch model) and the tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        # peft would add the whole embedding where tokens were added to it; their rows are in the adapter.
        self.backbone.model.save_pretrained(folder, **({"save_embedding_layers": False} if self.pretrained else {}))
        if additions := self._additions():
            save_file(additions, folder / ADDITIONS)
        self.tokenizer.save_pretrained(folder)

    def load_pretrained(self, folder: Path) -> None:
        """Read back what :meth:`save_pretrained` wrote.

        Raises:
            RuntimeError: the weights are those of another form of the model.
        """
        if self.pretrained:
            import peft

            weights = load_file(folder / "adapter_model.safetensors", device=str(self.device))
            peft.set_peft_model_state_dict(self.backbone.model, weights)
        else:
            weights = load_file(folder / "model.safetensors", device=str(self.device))
            self.backbone.model.load_state_dict(weights, strict=False)  # tied weights are stored once
            self.backbone.model.tie_weights()
        if own := self._additions():
            found = load_file(folder / ADDITIONS, device=str(self.device))
            if own.keys() != found.keys():
                raise RuntimeError(f"{ADDITIONS} holds {', '.join(sorted(found))}, not {', '.join(sorted(own))}")
            self.backbone.load_state_dict(found, strict=False)

    def _take_over(self, file: Path) -> None:
        """Where ``llm`` is a folder that one of our runs left: its tables too, but for those of its own catalogue."""
        if file.is_file():
            own, found, strange = self._additions(), load_file(file), self.backbone.of_catalogue
            self.backbone.load_state_dict({name: weight for name, weight in found.items() if name in own
                                           and name not in strange
                                           and own[name].shape == weight.shape}, strict=False)

    def _additions(self) -> dict[str, Tensor]:
        """Weights of the backbone that are not the Hugging Face model's."""
        return {name: weight for name, weight in self.backbone.state_dict().items() if not name.startswith("model.")}

    def describe(self) -> dict:
        """Facts for the result record: backbone, fingerprints, what the index had to do."""
        return {"backbone": str(self.config["llm"]), "trie_fingerprint": self.index.fingerprint,
                "trie_nodes": len(self.trie), "max_prompt_tokens": self.prompts.max_tokens, **self.index.report}
