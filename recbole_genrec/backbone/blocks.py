"""Attention under a sparse mask, block by block: keys that no query of a block sees are not looked at."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Name of this implementation among those of transformers.
NAME = "genrec_blocks"
#: Queries of a block.
QUERIES = 128


def seen_by_block(seen: Tensor) -> list[Tensor]:
    """The keys that each block of queries looks at.

    Args:
        seen: ``[B, T, T]`` bool, query (second axis) sees key (third axis).
    Returns:
        int64 key numbers, ascending, one tensor for each ``QUERIES`` queries.
    """
    return [block.any(0).nonzero().squeeze(1) for block in seen.any(0).split(QUERIES)]


def attend(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
           keys: list[Tensor] | None = None, **options) -> tuple[Tensor, None]:
    """Attention in transformers' form; equal to its "sdpa" under the same mask, and the same without ``keys``.

    Args:
        query, key, value: ``[B, heads, T, d]``.
        attention_mask: ``[B, 1, T, T]`` to be added to the scores.
        keys: from :func:`seen_by_block`.
    """
    if keys is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = [sdpa_attention_forward(module, part, key.index_select(2, columns), value.index_select(2, columns),
                                    mask.index_select(3, columns), **options)[0]
             for part, mask, columns in zip(query.split(QUERIES, 2), attention_mask.split(QUERIES, 2), keys)]
    return torch.cat(parts, dim=1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
