"""Backbones that are also told which item a token is part of, or the end of: tables of ID embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.encoder_texts.masked import MaskedBatch
from recbole_genrec.prompt import Batch


#: Share of a state that is left out in training when it is compared with the items. RecBole's SASRec leaves out as
#: much within its layers.
DROPOUT = 0.5
#: Standard deviation of the rows of a new table, as in RecBole's SASRec.
SPREAD = 0.02


class IdentifiedBackbone(Seq2SeqBackbone):
    """T5 or BART with two tables of ID embeddings, of users and of items, added to the encoder's tokens.

    After Cao and Lio 2024.

    Both begin as zeros, so that before the first step the model is the one that was loaded, and a user or item that
    training never sees keeps its zeros. They are trained whole, under LoRA too.
    """

    of_catalogue = frozenset({"users.weight", "items.weight"})
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


class IdentifiedCausalBackbone(CausalBackbone):
    """A decoder-only model with a table of item embeddings, each added to the token that ends the item.

    A title is read and written without it; whoever reads on after the title knows whose it was. The table is trained
    whole, under LoRA too. What is added is normalised, so that an item is heard from the first step on: rows small
    enough to be compared with states (:meth:`item_logits`) are too faint to be told apart beside what attention adds.
    A pre-trained model hears nothing before the first step, its gain is 0.
    """

    of_catalogue = frozenset({"items.weight", "item_norm.weight"})

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.items = self.item_norm = None

    def add_table(self, items: int, gain: float) -> None:
        """Make the table, of random rows; row 0 is that of all other tokens and stays zero.

        Args:
            items: rows.
            gain: what a normalised row is multiplied with before the first step; it is learnt.
        """
        width = self.core.config.hidden_size
        self.items = nn.Embedding(items, width, padding_idx=0)
        self.item_norm = nn.RMSNorm(width)
        with torch.no_grad():
            self.items.weight[1:].normal_(std=SPREAD)
            self.item_norm.weight.fill_(gain)

    def item_logits(self, states: Tensor) -> Tensor:
        """``[B, d]`` states -> ``[B, items]``, how well each item's embedding agrees; ``-inf`` for row 0."""
        logits = nn.functional.linear(nn.functional.dropout(states, DROPOUT, self.training), self.items.weight)
        return logits.index_fill(1, torch.zeros(1, dtype=torch.int64, device=logits.device), -torch.inf)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        if self.items is None:
            return super().inputs(batch)
        tokens = self.core.get_input_embeddings()(batch.tokens)
        return {"inputs_embeds": tokens + self.item_norm(self.items(batch.item)).to(tokens.dtype)}
