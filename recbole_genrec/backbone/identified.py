"""An encoder-decoder whose encoder also sees which user and which item each token is part of (Cao and Lio 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.encoder_texts.masked import MaskedBatch


class IdentifiedBackbone(Seq2SeqBackbone):
    """T5 or BART with two tables of ID embeddings, of users and of items, added to the encoder's tokens.

    Both begin as zeros, so that before the first step the model is the one that was loaded, and a user or item that
    training never sees keeps its zeros. They are trained whole, under LoRA too.
    """

    extra_tokens = ("<extra_id_0>",)  # the mask of vocabularies that have no mask token

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.users = self.items = None

    def add_tables(self, users: int, items: int) -> None:
        """Make the tables; row 0 is that of masks and other tokens and stays zero."""
        width = self.core.config.d_model
        self.users, self.items = (nn.Embedding(rows, width, padding_idx=0, _weight=torch.zeros(rows, width))
                                  for rows in (users, items))

    def encoder_inputs(self, prompts: MaskedBatch) -> Tensor:
        embedded = super().encoder_inputs(prompts)
        return embedded if self.users is None else embedded + self.users(prompts.user) + self.items(prompts.item)
