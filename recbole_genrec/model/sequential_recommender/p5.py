"""P5: recommendation as language processing (Geng et al. 2022, arXiv:2203.13366), its sequential task."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.backbone.whole_words import WholeWordBackbone
from recbole_genrec.encoder_texts.whole_words import WholeWordBatch, WholeWordTexts
from recbole_genrec.encoder_texts.wording import PromptSets
from recbole_genrec.model.sequential_recommender.encoder_decoder import EncoderDecoderRecommender


class P5(EncoderDecoderRecommender):
    """Prompts with the user and the history as numbers; a decoder writes the number of the next item.

    An encoder token is the sum of its token's embedding, the embedding of the whole word that it is part of, and the
    backbone's own position. In training each sample draws one of the seen prompts, anew each epoch. Evaluation uses
    the first seen one, and beside it the first unseen one (``prompt_eval``), as the paper's rows do.

    Decide: only the family of next-item prompts is here, in words of our own (the paper trains five families at
    once, with ratings and review texts); every item that has one before it is a target (the published code takes one
    a user and epoch); items are random numbers (``shuffled_id``) and not those of first appearance, which give the test
    items away (``sequential``; ``collaborative`` is Hua et al. 2023).
    """

    families = {WholeWordBackbone.kind: WholeWordBackbone}
    user_lead = " "

    @classmethod
    def check_config(cls, config) -> None:
        super().check_config(config)
        PromptSets.load(config["prompt"], None)

    def read_wording(self, config, dataset) -> list[str]:
        self.wording = PromptSets.load(config["prompt"], (config["about"] or {}).get("domain"))
        # Every sample has these words: told often, each becomes one token of a scratch backbone's vocabulary.
        return [*super().read_wording(config, dataset), *self.wording.texts() * 100]

    def make_prompts(self) -> WholeWordTexts:
        wording = self.wording
        texts = WholeWordTexts(self.index, self.user_tokens, [*wording.seen, *wording.unseen], wording.separator,
                               self.tokenizer, self.tokenizer.eos_token_id, self.config["max_prompt_tokens"])
        self.backbone.add_table(texts.max_tokens + 1)  # no text has more words than tokens
        return texts.to(self.device)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the target's tokens and their end; scalar."""
        row, history, target = self.drawn(interaction)
        template = (self.draws(row, 2)[:, 1] * len(self.wording.seen)).long().to(self.device)
        return self.answer_loss(self.prompts(interaction[self.USER_ID], history, template), target)

    def prompt_of(self, interaction) -> WholeWordBatch:
        """The first prompt of the set that is evaluated, with each row's user and ``item_id_list``."""
        history = interaction[self.ITEM_SEQ]
        first = 0 if self.prompt_set == "seen" else len(self.wording.seen)
        return self.prompts(self.user_of(interaction), history, torch.full_like(history[:, 0], first))

    def describe(self) -> dict:
        return {**super().describe(), "prompt_fingerprint": self.wording.fingerprint}
