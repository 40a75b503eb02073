"""Items known by number: a table of their embeddings, and a small language model whose tokens are items."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.head import sum_in_pieces
from recbole_genrec.backbone.loading import resolve
from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.settings import property_names

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

    def loss(self, states: Tensor, following: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum of the cross-entropies over all items.

        Args:
            states: ``[N, width]``.
            following: ``[N]`` items, none of them padding.
            label_smoothing: share of a target's weight that all items have alike.
        """
        return sum_in_pieces(
            lambda part, rows: nn.functional.cross_entropy(self.logits(part)[:, 1:].float(), following[rows] - 1,
                                                           reduction="sum", label_smoothing=label_smoothing),
            states, [self.weight], len(self.weight))


def reader_settings(name: str) -> dict:
    """Settings of the architecture that ``item_reader: name`` asks for.

    Raises:
        UserError: no decoder-only scratch backbone of that name.
    """
    known = property_names("backbone")
    if name in known and _is_reader(found := resolve(name)):
        return found["config"]
    scratch = [other for other in known if _is_reader(resolve(other))]
    raise UserError(f"item_reader={name} is no decoder-only scratch backbone of properties/backbone/"
                    + (did_you_mean(name, scratch) or "; there are " + ", ".join(scratch)))


def _is_reader(found: dict | str) -> bool:
    return isinstance(found, dict) and found["kind"] == CausalBackbone.kind


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


class ItemReaders(nn.Module):
    """Some readers that share no weight with each other, multiplied: two models are better than one.

    Args:
        settings, items: as of :class:`ItemReader`.
        members: how many.
    """

    def __init__(self, settings: dict, items: int, members: int = 1):
        super().__init__()
        self.members = nn.ModuleList(ItemReader(settings, items) for _ in range(members))

    def loss(self, items: Tensor, learnt: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over the members of the cross-entropies over all items of some next items; scalar.

        Args:
            items: ``[B, L]``, padded by 0 on the right.
            learnt: ``[B, L - 1]`` bool, which of the items after the first; none of them padding.
            label_smoothing: as in :meth:`NormedItems.loss`.
        """
        return sum(reader.items.loss(reader(items)[:, :-1][learnt], items[:, 1:][learnt], label_smoothing)
                   for reader in self.members)

    def log_probs(self, history: Tensor, length: Tensor) -> Tensor:
        """The mean over the members of what they say of the next item.

        Args:
            history: ``[B, L]`` items, padded by 0 on the right.
            length: ``[B]`` how many they are, at least 1.
        Returns:
            ``[B, items]`` float32 means of log-probabilities, ``-inf`` for the padding.
        """
        last = torch.arange(len(history), device=history.device), length - 1
        said = [reader.items.logits(reader(history)[last])[:, 1:].float().log_softmax(1) for reader in self.members]
        return nn.functional.pad(torch.stack(said).mean(0), (1, 0), value=-torch.inf)
