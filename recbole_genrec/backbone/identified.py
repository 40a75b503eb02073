"""Backbones that are also told which item a token is part of, or the end of: tables of ID embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.items import ItemReaders, NormedItems
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.encoder_texts.masked import MaskedBatch
from recbole_genrec.prompt import Batch


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
    """A decoder-only model with what knows items by number: a table, or readers of their own beside it.

    Of the table each row is added to the token that ends the item: a title is read and written without it, and whoever
    reads on after the title knows whose it was. A pre-trained model hears nothing of it before the first step, its
    gain is 0. Table and readers are trained whole, under LoRA too.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.items = self.readers = None

    @property
    def of_catalogue(self) -> frozenset[str]:
        return frozenset(name for name in self.state_dict() if name.startswith(("items.", "readers.")))

    def add_table(self, items: int, gain: float) -> None:
        """Make the table (see :class:`NormedItems`)."""
        self.items = NormedItems(items, self.core.config.hidden_size, gain)

    def add_readers(self, settings: dict, items: int, members: int) -> None:
        """Make the readers (see :class:`recbole_genrec.backbone.items.ItemReaders`)."""
        self.readers = ItemReaders(settings, items, members)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        if self.items is None:
            return super().inputs(batch)
        tokens = self.core.get_input_embeddings()(batch.tokens)
        return {"inputs_embeds": tokens + self.items(batch.item).to(tokens.dtype)}
