"""Titles scored by their log-likelihood as an untuned model's answer: the trie decoding of trained models."""

from __future__ import annotations

import torch

from recbole_genrec.model.sequential_recommender.base import GenerativeRecommender
from recbole_genrec.prompt import Batch, PromptBuilder, PromptTemplate, newest_that_fit
from recbole_genrec.zero_shot.wording import Wording, chat

_MARK = "<<<history>>>"


class Likelihood(GenerativeRecommender):
    """log p(title | message) of a causal model, the title as the first line of its answer."""

    def read_wording(self, config, dataset) -> list[str]:
        self.wording = Wording.load(config["prompt"], "score", (config["about"] or {}).get("domain"))
        return self.wording.texts()

    def make_prompts(self) -> PromptBuilder:
        # A title's tokens end with a line break, so the one that stands after {history} is there already.
        before, after = self.wording.parts()
        text = chat(self.tokenizer, before + _MARK + after.removeprefix("\n"), self.wording.answer)
        prefix, _, suffix = text.partition(_MARK)
        template = PromptTemplate([prefix], suffix, self.wording.fingerprint)
        return PromptBuilder(self.index, self.tokenizer, template, self.config["max_prompt_tokens"]).to(self.device)

    def prompt_of(self, interaction) -> Batch:
        history = interaction[self.ITEM_SEQ]
        one_each = (torch.arange(self.n_items, device=history.device) > 0).long()
        room = torch.full_like(history[:, :1], self.config["max_history_items"])
        return self.prompts(newest_that_fit(history, one_each, room))

    def describe(self) -> dict:
        return {**super().describe(), "prompt_fingerprint": self.wording.fingerprint, "norm": self.config["norm"],
                "decode": None if self.config["candidates"] else self.config["decode"]}
