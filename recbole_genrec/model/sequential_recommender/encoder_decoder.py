"""What recommenders on an encoder-decoder share: users as text, thinned samples, the loss of an answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.evaluation.cost import Work
from recbole_genrec.index import ItemIndex, Material
from recbole_genrec.model.sequential_recommender.base import GenerativeRecommender
from recbole_genrec.prompt import Rows


class EncoderDecoderRecommender(GenerativeRecommender):
    """An encoder reads user and history, a decoder writes an item and the end of the text."""

    lead = " "
    #: Text that stands before every user.
    user_lead = ""

    def read_wording(self, config, dataset) -> list[str]:
        self.sequences = dataset.sequences
        # Users are numbered by chance: no number tells when one came.
        order = np.random.default_rng(config["seed"]).permutation(dataset.user_num - 1) + 1
        self.user_texts = ["", *(f"{self.user_lead}user_{number}" for number in order.tolist())]
        self.epoch = 0
        return self.user_texts[1:]

    def make_index(self, material: Material) -> ItemIndex:
        return super().make_index(replace(material, terminator=self.tokenizer.eos_token_id, lead=self.lead))

    @property
    def user_tokens(self) -> list[list[int]]:
        """Tokens of each user; none for the padding."""
        return [[], *self.tokenizer(self.user_texts[1:], add_special_tokens=False)["input_ids"]]

    def training_rows(self, dataset) -> Tensor | None:
        """One of every ``target_stride`` samples of a user; None for all. See :meth:`drawn`."""
        return self._every(dataset, self.config["target_stride"])

    def training_lengths(self, dataset) -> Tensor:
        """``[N]`` tokens of each sample's items: a key to sort by."""
        return self._window_tokens(dataset, self.max_seq_length)

    def drawn(self, interaction) -> tuple[Tensor, Tensor, Tensor]:
        """What is trained on in the place of a batch of thinned samples, drawn anew each epoch.

        Returns:
            ``[B]`` target rows, each that of its sample or one of the ``target_stride`` - 1 before it, so that no item
            is left out for good; ``[B, L]`` the items before them; ``[B]`` the items in them.
        """
        row = interaction[TARGET_ROW]
        if self.config["target_stride"] == 1:
            return row, interaction[self.ITEM_SEQ], interaction[self.ITEM_ID]
        row = row.cpu()
        choices = (row - self.sequences.start[row]).clamp(max=self.config["target_stride"])
        row = row - (self.draws(row, 1)[:, 0] * choices).long()
        history = self.sequences.history(row, self.max_seq_length)
        return tuple(part.to(self.device) for part in (row, history, self.sequences.item[row]))

    def draws(self, row: Tensor, count: int) -> Tensor:
        """``[B, count]`` float64 from 0 to 1: the same for the same seed, epoch and target row."""
        seed = [self.config["seed"], self.epoch]
        return torch.from_numpy(np.stack([np.random.default_rng([*seed, number]).random(count)
                                          for number in row.tolist()]))

    def answer_loss(self, prompts: Rows, target: Tensor) -> Tensor:
        """Mean negative log-likelihood of the ``[B]`` targets' tokens and their ends; scalar."""
        answers, _, length = self.trie.paths(target)
        told = torch.arange(answers.size(1), device=answers.device) < length.unsqueeze(1)
        labels = answers[told]
        encoded, decoded = prompts.lengths, length
        self.work = Work(len(target), labels.numel(), encoded.sum() + decoded.sum(),
                         prompts.tokens.numel() + answers.numel(), labels.numel(),
                         (encoded * encoded + encoded * decoded + decoded * (decoded + 1) // 2).sum())
        with self.autocast():
            states = self.backbone.forced(prompts, answers[:, :-1])[told]
            total = self._sum(self._vocabulary_loss, states, labels)
        return total / labels.numel()

    def user_of(self, interaction) -> Tensor:
        """``[B]`` user ids; 0, an unknown one, where the batch does not say."""
        return interaction[self.USER_ID] if self.USER_ID in interaction else \
            torch.zeros_like(interaction[self.ITEM_SEQ][:, 0])
