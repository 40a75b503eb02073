"""The language-model head where only some of its outputs are wanted."""

from __future__ import annotations

import warnings
from typing import Callable

import torch
from torch import Tensor, nn

#: A logit computed by itself costs as much as this many in a matrix product.
ONE_BY_ONE = 16
#: Numbers that a chunk of gathered vectors, or of whole rows of logits, may hold.
CHUNK = 1 << 22

def pick(head: nn.Module, scaled: Callable[[Tensor], Tensor], hidden: Tensor, row: Tensor, token: Tensor) -> Tensor:
    """Some logits of some states: one by one, or out of whole rows, whichever is cheaper.

    Args:
        head: the output embedding.
        scaled: what follows it, number by number.
        hidden: ``[R, d]``.
        row: ``[M]`` int64, ascending.
        token: ``[M]`` int64, ascending within a row.
    Returns:
        ``[M]``.
    """
    # An adapter around the head would be bypassed if its weights were read.
    if type(head) is nn.Linear and ONE_BY_ONE * len(row) < len(hidden) * head.out_features:
        picked = _one_by_one(hidden, head.weight, row, token)
        return scaled(picked if head.bias is None else picked + head.bias[token])
    size = max(1, CHUNK // head.out_features)
    ends = torch.searchsorted(row, torch.arange(size, len(hidden) + size, size, device=row.device)).tolist()
    parts = zip(hidden.split(size), [0, *ends], ends)
    return torch.cat([scaled(head(part))[row[low:high] - number * size, token[low:high]]
                      for number, (part, low, high) in enumerate(parts)])


def _one_by_one(hidden: Tensor, weight: Tensor, row: Tensor, token: Tensor) -> Tensor:
    """``[M]`` float32 products of ``hidden[row]`` and ``weight[token]``."""
    if weight.dtype == torch.float32:  # in one kernel, which gathers nothing
        ends = torch.searchsorted(row, torch.arange(len(hidden) + 1, device=row.device))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            pattern = torch.sparse_csr_tensor(ends, token, torch.zeros(len(row), device=row.device),
                                              (len(hidden), len(weight)), check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, hidden.float(), weight.t(), beta=0).values()
    size = max(1, CHUNK // hidden.size(-1))
    return torch.cat([(hidden[r].float() * weight[t].float()).sum(-1)
                      for r, t in zip(row.split(size), token.split(size))])
