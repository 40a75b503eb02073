"""GenRecT5: sequence to sequence over masked items, without prompts (Cao and Lio 2024, arXiv:2407.21191)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.backbone.identified import IdentifiedBackbone
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.cost import Work
from recbole_genrec.index import ItemIndex, Material
from recbole_genrec.masked import MaskedBatch, MaskedTexts
from recbole_genrec.model.sequential_recommender.base import GenerativeRecommender

STAGES = ("pretrain", "finetune", "both")


class GenRecT5(GenerativeRecommender):
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
    lead = " "

    @classmethod
    def check_config(cls, config) -> None:
        super().check_config(config)
        if config["train_stage"] not in STAGES:
            raise UserError(f"train_stage={config['train_stage']!r} is not one of {', '.join(STAGES)}")

    def read_wording(self, config, dataset) -> list[str]:
        # Users are numbered by chance: no number tells when one came.
        order = np.random.default_rng(config["seed"]).permutation(dataset.user_num - 1) + 1
        self.user_texts = ["", *(f"user_{number}" for number in order.tolist())]
        return self.user_texts[1:]

    def make_index(self, material: Material) -> ItemIndex:
        return super().make_index(replace(material, terminator=self.tokenizer.eos_token_id, lead=self.lead))

    def make_prompts(self, dataset) -> MaskedTexts:
        mask = self.tokenizer.mask_token_id
        if mask is None:
            mask = self.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        if mask is None or mask == self.tokenizer.unk_token_id:
            raise UserError(f"--llm={self.config['llm']}: its tokenizer has neither a mask nor a sentinel <extra_id_0>")
        self.backbone.add_tables(len(self.user_texts), self.n_items)
        users = [[], *self.tokenizer(self.user_texts[1:], add_special_tokens=False)["input_ids"]]
        begin = self.tokenizer.bos_token_id if self.tokenizer.mask_token_id is not None else None  # BART's
        stage = self.config["train_stage"]
        self.train_stage = "pretrain" if stage == "both" else stage
        self.epoch = 0
        return MaskedTexts(self.index, users, begin, self.tokenizer.eos_token_id, mask,
                           self.config["max_prompt_tokens"]).to(self.device)

    # ------------------------------------------------------------------------------------------------ training

    def pretraining_rows(self, dataset) -> Tensor:
        """The last training sample of each user: its history and target are all the items of the text."""
        return (self._rows_to_last(dataset) == 0).nonzero().squeeze(1)

    def training_rows(self, dataset) -> Tensor | None:
        """All samples, or the last of each user."""
        if self.config["train_stage"] == "pretrain" or self.config["last_only"]:
            return self.pretraining_rows(dataset)
        return None

    def training_lengths(self, dataset) -> Tensor:
        """``[N]`` tokens of each sample's items: a key to sort by."""
        sequences, row = dataset.sequences, dataset.inter_feat[TARGET_ROW]
        before = self._tokens_before(sequences)
        return before[row + 1] - before[torch.maximum(sequences.start[row], row - self.max_seq_length)]

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the target's tokens and their end; scalar."""
        history, target, user = interaction[self.ITEM_SEQ], interaction[self.ITEM_ID], interaction[self.USER_ID]
        if self.train_stage == "pretrain":
            prompts, target = self._with_one_masked(history, target, user, interaction[TARGET_ROW])
        else:
            prompts = self.prompts(user, self.prompts.fitting(user, history))
        answers, _, length = self.trie.paths(target)
        told = torch.arange(answers.size(1), device=answers.device) < length.unsqueeze(1)
        labels = answers[told]
        encoded, decoded = prompts.lengths, length
        self.work = Work(len(target), labels.numel(), encoded.sum() + decoded.sum(),
                         prompts.tokens.numel() + answers.numel(), labels.numel(),
                         (encoded * encoded + encoded * decoded + decoded * (decoded + 1) // 2).sum())
        with self.autocast():
            states = self.backbone.answer_states(prompts, answers)[told]
            total = self._sum(self._vocabulary_loss, states, labels)
        return total / labels.numel()

    def _with_one_masked(self, history: Tensor, target: Tensor, user: Tensor,
                         row: Tensor) -> tuple[MaskedBatch, Tensor]:
        """Texts of history and target with one item of each masked, and the masked items."""
        count = (history != 0).sum(1)
        items = torch.nn.functional.pad(history, (0, 1)).scatter(1, count.unsqueeze(1), target.unsqueeze(1))
        items = self.prompts.fitting(user, items)
        first, last = (items != 0).int().argmax(1), count
        seed = [self.config["seed"], self.epoch]
        draws = np.stack([np.random.default_rng([*seed, number]).random(2) for number in row.tolist()])
        draw = torch.from_numpy(draws).to(items.device)
        place = first + (draw[:, 0] * (last - first + 1)).long()
        place = torch.where(draw[:, 1] < self.config["last_bias"], last, place)
        masked = items.gather(1, place.unsqueeze(1)).squeeze(1)
        return self.prompts(user, items, place), masked

    # ---------------------------------------------------------------------------------------------- prediction

    def prompt_of(self, interaction) -> MaskedBatch:
        """The text of each row: its user, its ``item_id_list``, the mask."""
        history = interaction[self.ITEM_SEQ]
        user = interaction[self.USER_ID] if self.USER_ID in interaction else torch.zeros_like(history[:, 0])
        return self.prompts(user, self.prompts.fitting(user, history))

    def describe(self) -> dict:
        wording = hashlib.sha256("\n".join(self.user_texts).encode()).hexdigest()[:16]
        return {**super().describe(), "prompt_fingerprint": wording}
