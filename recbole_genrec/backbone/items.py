"""Items known by number: a table of their embeddings, and a small language model whose tokens are items."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

#: Standard deviation of the rows of a new table, as in RecBole's SASRec.
SPREAD = 0.02
#: Share of a state that is left out in training when it is compared with the items. RecBole's SASRec leaves out as
#: much within its layers.
DROPOUT = 0.5


class NormedItems(nn.Embedding):
    """A table of item embeddings whose rows are looked up brought to one length.

    So an item is heard from the first step on: rows small enough to be compared with states are too faint to be told
    apart beside what attention adds. Row 0, the padding, stays zero.

    Args:
        items: rows.
        width: of a row.
        gain: what a normalised row is multiplied with before the first step; it is learnt.
    """

    def __init__(self, items: int, width: int, gain: float = 1.0):
        super().__init__(items, width, padding_idx=0)
        self.norm = nn.RMSNorm(width)
        with torch.no_grad():
            self.weight[1:].normal_(std=SPREAD)
            self.norm.weight.fill_(gain)

    def forward(self, items: Tensor) -> Tensor:
        """``[...]`` items -> ``[..., width]``."""
        return self.norm(super().forward(items))

    def logits(self, states: Tensor) -> Tensor:
        """``[N, width]`` states -> ``[N, items]``, how well each row as it is agrees; the padding's means nothing."""
        return nn.functional.linear(nn.functional.dropout(states, DROPOUT, self.training), self.weight)


class ItemReader(nn.Module):
    """A decoder-only model from scratch that reads items, each one token, and says which comes next.

    It shares nothing with the model of the titles: what is learnt by heart of numbers does not then stand in for what
    the words tell.

    Args:
        settings: of the architecture, as in the ``config`` of ``properties/backbone/*.yaml``.
        items: size of the catalogue, the padding (0) included.
    """

    def __init__(self, settings: dict, items: int):
        super().__init__()
        settings = {**settings, "vocab_size": items, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        self.core = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        self.core.set_input_embeddings(NormedItems(items, self.core.config.hidden_size))

    @property
    def items(self) -> NormedItems:
        """The items' embeddings: looked up for the history, compared with what is said of the next item."""
        return self.core.get_input_embeddings()

    def forward(self, history: Tensor) -> Tensor:
        """``[B, L]`` items, padded by 0 on the right -> ``[B, L, d]`` what is known after each."""
        return self.core(input_ids=history, use_cache=False).last_hidden_state
