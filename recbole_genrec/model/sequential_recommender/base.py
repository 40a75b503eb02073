"""What every generative recommender shares: backbone, item index, prompts, decoding, saving."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from safetensors.torch import load_file
from torch import Tensor

from recbole_genrec.backbone.loading import compute_dtype, load_backbone, resolve
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.decoding.batching import in_batches, users_that_fit
from recbole_genrec.decoding.beam import beam_search
from recbole_genrec.decoding.best_first import best_first
from recbole_genrec.decoding.exact import exact_top_k, score_items
from recbole_genrec.decoding.tree import Ranking
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.ranking import HISTORY
from recbole_genrec.index import build_index
from recbole_genrec.prompt import Batch, PromptBuilder, PromptTemplate


class GenerativeRecommender(SequentialRecommender):
    """A language model that spells the next item token by token (RecBole model).

    A subclass says in :meth:`has_suffix` how its prompt ends and in ``calculate_loss`` what it learns.

    Scores are log-probabilities of items given the history: ``full_sort_predict`` gives those of the decoded
    items and ``-inf`` elsewhere, ``predict`` that of a given item.
    """

    generative = True
    #: What a scratch backbone's ``kind`` must be.
    backbone_kind = "causal"

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config = config
        self.catalogue = Catalogue.from_dataset(dataset)
        domain = (config["about"] or {}).get("domain")
        self.template = PromptTemplate.load(config["prompt"], domain, self.has_suffix(config))
        # The tokenizer of a scratch backbone sees titles and wording, one entry each: no user's sequence.
        texts = [*self.catalogue.titles[1:], *self.template.prefixes, self.template.suffix, "\n"]
        loaded = load_backbone(config, texts)
        self.backbone, self.tokenizer, self.pretrained = loaded.backbone, loaded.tokenizer, loaded.pretrained
        self.index = build_index(config["item_index"], self.catalogue, self.tokenizer)
        self.trie = self.index.trie.to(self.device)
        self.prompts = PromptBuilder(self.index, self.tokenizer, self.template,
                                     config["max_prompt_tokens"]).to(self.device)
        self.dtype = compute_dtype(config)
        self.topk = max(config["topk"])
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
        PromptTemplate.load(config["prompt"], None, cls.has_suffix(config))
        found = resolve(str(config["llm"]))
        if isinstance(found, dict) and found["kind"] != cls.backbone_kind:
            raise UserError(f"--llm={config['llm']} is a {found['kind']} backbone, and {cls.__name__} needs a "
                            f"{cls.backbone_kind} one")

    @staticmethod
    def has_suffix(config) -> bool:
        """Whether a marker stands between the history and the answer."""
        raise NotImplementedError  # RecBole's convention for what a model must define

    def _check_fit(self) -> None:
        """Refuse spellings that the backbone cannot read: token ids or prompts beyond what it was made for."""
        embedded = self.backbone.core.get_input_embeddings().num_embeddings
        if (largest := int(self.prompts.table[0].max())) >= embedded:
            raise UserError(f"--llm={self.config['llm']}: its tokenizer gives token {largest}, but the model embeds "
                            f"only {embedded}")
        limit = self.backbone.max_positions
        longest = self.prompts.max_tokens + int(self.index.lengths.max())
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

    def autocast(self):
        """bf16 arithmetic where ``precision`` says so."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    # --------------------------------------------------------------------------------------------- prediction

    def prompt_of(self, interaction) -> Batch:
        """Prompts of a batch, from its ``item_id_list`` alone (other columns may describe the target)."""
        return self.prompts(interaction[self.ITEM_SEQ])

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

    def _decode(self, prompts: Batch, k: int, banned: Tensor | None) -> Ranking:
        decode, norm = self.config["decode"], self.config["norm"]
        with self.autocast():
            state = self.backbone.start(prompts)
            if decode == "exact_all":
                return exact_top_k(state, self.trie, k, norm, banned)
            if decode == "exact_topk":
                return best_first(state, self.trie, k, norm, banned, self.config["decode_budget"])
            return beam_search(state, self.trie, k, self.config["num_beams"], norm, banned)

    def full_sort_predict(self, interaction) -> Tensor:
        """``[B * n_items]`` log-probabilities of the decoded items, ``-inf`` for all others."""
        ranking = self.recommend(interaction, min(self.topk, self.trie.n_items))
        scores = torch.full((len(ranking.items), self.n_items), -torch.inf, device=self.device)
        scores.scatter_(1, ranking.items, ranking.scores)  # absent items share id 0, the padding
        scores[:, 0] = -torch.inf
        return scores.flatten()

    @torch.no_grad()
    def predict(self, interaction) -> Tensor:
        """``[B]`` log-probability of each row's item, by teacher forcing (no decoding, so never ``-inf``)."""
        prompts, items = self.prompt_of(interaction), interaction[self.ITEM_ID]
        scores = torch.empty(len(items), device=self.device)
        for rows in prompts.lengths.argsort().split(self._users_at_a_time(prompts)):
            with self.autocast():
                state = self.backbone.start(prompts.rows(rows))
                scores[rows] = score_items(state, self.trie, items[rows], self.config["norm"])
        return scores

    def _users_at_a_time(self, prompts: Batch) -> int:
        return users_that_fit(self.backbone.bytes_per_token, prompts.tokens.size(1), self.device)

    # ------------------------------------------------------------------------------------------ saving, report

    def save_pretrained(self, folder: Path) -> None:
        """Write the trained weights (safetensors: LoRA's adapter, or the whole scratch model), tokenizer and trie."""
        folder.mkdir(parents=True, exist_ok=True)
        self.trie.save(folder / "trie.safetensors")
        self.backbone.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "genrec.json").write_text(json.dumps({"llm": str(self.config["llm"]), "pretrained": self.pretrained,
                                                        "trie_fingerprint": self.index.fingerprint}))

    def load_pretrained(self, folder: Path) -> None:
        """Read back what :meth:`save_pretrained` wrote."""
        if self.pretrained:
            import peft

            weights = load_file(folder / "adapter_model.safetensors", device=str(self.device))
            peft.set_peft_model_state_dict(self.backbone.model, weights)
        else:
            weights = load_file(folder / "model.safetensors", device=str(self.device))
            self.backbone.model.load_state_dict(weights, strict=False)  # tied weights are stored once
            self.backbone.model.tie_weights()

    def describe(self) -> dict:
        """Facts for the result record: backbone, fingerprints, what the index had to do."""
        return {"backbone": str(self.config["llm"]), "prompt_fingerprint": self.template.fingerprint,
                "trie_fingerprint": self.index.fingerprint, "trie_nodes": len(self.trie),
                "max_prompt_tokens": self.prompts.max_tokens, **self.index.report}
