"""GenRecT5: sequence to sequence over masked items, without prompts (Cao and Lio 2024, arXiv:2407.21191)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from recbole_genrec.backbone.identified import IdentifiedBackbone
from recbole_genrec.data.windows import TARGET_ROW, last_of_each, with_target
from recbole_genrec.encoder_texts.masked import MaskedBatch, MaskedTexts
from recbole_genrec.errors import UserError
from recbole_genrec.model.sequential_recommender.encoder_decoder import EncoderDecoderRecommender

STAGES = ("pretrain", "finetune", "both")


class GenRecT5(EncoderDecoderRecommender):
    r"""An encoder reads user and items, one of them masked; a decoder writes the masked one.

    * Pre-training: ``U, s_1 .. s_{n-2}`` with one uniformly drawn item replaced by the mask, drawn anew each epoch; the
      target is that item. Users with fewer than two training items are skipped.
    * Fine-tuning and evaluation: the mask follows the history; the target is the next item. Every prefix of a user's
      training items is a sample (``last_only: true``: the longest alone).

    An encoder token is the sum of its token's embedding, the ID embedding of its whole user or item, and the backbone's
    own position (T5: a relative bias, nothing is added). The masked item's ID is never given.

    Decide: the paper's caption, read literally, fine-tunes on :math:`s_{n-1}`, which is the validation item here; no
    stage sees it, nor the test item. The published code looks items up in the user table, counts the padding in the
    loss, masks users too, and reports the best test epoch; ours does none of it. ``last_bias: .3`` masks the last item
    that often, as the code does. T5's decoder target has no leading sentinel.
    """

    families = {IdentifiedBackbone.kind: IdentifiedBackbone}

    @classmethod
    def check_config(cls, config) -> None:
        super().check_config(config)
        if config["train_stage"] not in STAGES:
            raise UserError(f"train_stage={config['train_stage']!r} is not one of {', '.join(STAGES)}")
        if config["last_only"] and config["target_stride"] != 1:
            raise UserError(f"target_stride={config['target_stride']} has no say where last_only=true: leave one out")

    def make_prompts(self) -> MaskedTexts:
        mask = self.tokenizer.mask_token_id
        if mask is None:
            mask = self.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        if mask is None or mask == self.tokenizer.unk_token_id:
            raise UserError(f"--llm={self.config['llm']}: its tokenizer has neither a mask nor a sentinel <extra_id_0>")
        self.backbone.add_tables(len(self.user_texts), self.n_items)
        begin = self.tokenizer.bos_token_id if self.tokenizer.mask_token_id is not None else None  # BART's
        stage = self.config["train_stage"]
        self.train_stage = "pretrain" if stage == "both" else stage
        return MaskedTexts(self.index, self.user_tokens, begin, self.tokenizer.eos_token_id, mask,
                           self.config["max_prompt_tokens"]).to(self.device)

    # ------------------------------------------------------------------------------------------------ training

    def pretraining_rows(self, dataset) -> Tensor:
        """The last training sample of each user: its history and target are all the items of the text."""
        return last_of_each(dataset)

    def training_rows(self, dataset) -> Tensor | None:
        """Samples of each user: in fine-tuning those of ``target_stride``, or the last alone."""
        if self.config["train_stage"] == "pretrain" or self.config["last_only"]:
            return self.pretraining_rows(dataset)
        return super().training_rows(dataset)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the masked item's tokens and their end; scalar."""
        user = interaction[self.USER_ID]
        if self.train_stage == "pretrain":
            prompts, target = self._with_one_masked(interaction[self.ITEM_SEQ], interaction[self.ITEM_ID], user,
                                                    interaction[TARGET_ROW])
        else:
            _, history, target = self.drawn(interaction)
            prompts = self.prompts(user, history)
        return self.answer_loss(prompts, target)

    def _with_one_masked(self, history: Tensor, target: Tensor, user: Tensor,
                         row: Tensor) -> tuple[MaskedBatch, Tensor]:
        """Texts of history and target with one item of each masked, and the masked items."""
        count = (history != 0).sum(1)
        items = self.prompts.fitting(user, with_target(history, count, target))
        first, last = (items != 0).int().argmax(1), count
        draw = self.draws(row, 2).to(items.device)
        place = first + (draw[:, 0] * (last - first + 1)).long()
        place = torch.where(draw[:, 1] < self.config["last_bias"], last, place)
        masked = items.gather(1, place.unsqueeze(1)).squeeze(1)
        return self.prompts(user, items, place), masked

    # ---------------------------------------------------------------------------------------------- prediction

    def prompt_of(self, interaction) -> MaskedBatch:
        """The text of each row: its user, its ``item_id_list``, the mask."""
        return self.prompts(self.user_of(interaction), interaction[self.ITEM_SEQ])

    def describe(self) -> dict:
        wording = hashlib.sha256("\n".join(self.user_texts).encode()).hexdigest()[:16]
        return {**super().describe(), "prompt_fingerprint": wording}
