"""The language-model head where not all of its outputs are wanted, or not all at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

#: A logit computed by itself costs as much as this many in a matrix product.
ONE_BY_ONE = 16
#: Numbers that a chunk of gathered vectors, or of whole rows of logits, may hold.
CHUNK = 1 << 22
#: Logits of a piece, at most: 32 MB in fp32. The loss does not depend on it.
LOGITS = 1 << 23
#: Positions of a piece, at least: fewer would spend their time on adding up the head's gradient.
POSITIONS = 256


def pick(head: nn.Module, scaled: Callable[[Tensor], Tensor], vocabulary: int, hidden: Tensor, row: Tensor,
         token: Tensor) -> Tensor:
    """Some logits of some states: one by one, or out of whole rows, whichever is cheaper.

    Args:
        head: the output embedding.
        scaled: what follows it, number by number.
        vocabulary: outputs of the head.
        hidden: ``[R, d]``.
        row: ``[M]`` int64, ascending.
        token: ``[M]`` int64, ascending within a row.
    Returns:
        ``[M]``.
    """
    # An adapter around the head would be bypassed if its weights were read.
    if type(head) is nn.Linear and ONE_BY_ONE * len(row) < len(hidden) * vocabulary:
        picked = _one_by_one(hidden, head.weight, row, token)
        return scaled(picked if head.bias is None else picked + head.bias[token])
    size = max(1, CHUNK // vocabulary)
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


def sum_in_pieces(loss: Callable[[Tensor, slice], Tensor], states: Tensor, head: Iterable[nn.Parameter],
                  vocabulary: int) -> Tensor:
    """A loss that is a sum over positions, and its gradients, without the logits of all positions at once.

    The gradients are taken piece by piece in the forward pass, when a piece's logits are there, and only scaled in
    the backward pass: nothing is computed twice (torch's own ``linear_cross_entropy`` does the same for a plain
    linear head, a plain cross-entropy and torch 2.13 or later only).

    Args:
        loss: of ``[n, d]`` states and their place among all ``N``; a scalar that uses no other weight than ``head``.
        states: ``[N, d]`` last hidden states.
        head: the head's weights.
        vocabulary: logits a position.
    Returns:
        the sum over all positions; scalar. It can be differentiated once.
    """
    size = max(POSITIONS, LOGITS // vocabulary)
    return _Sum.apply(loss, size, states, *head)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss, size, states, *head):
        pieces = [slice(begin, begin + size) for begin in range(0, len(states), size)]
        if not any(ctx.needs_input_grad):
            return sum((loss(states[piece], piece) for piece in pieces), torch.zeros((), device=states.device))
        trained = [weight for weight in head if weight.requires_grad]
        total, gradient = torch.zeros((), device=states.device), torch.empty_like(states)
        sums = [torch.zeros_like(weight) for weight in trained]
        for piece in pieces:
            with torch.enable_grad():
                part = states[piece].detach().requires_grad_()
                value = loss(part, piece)
                gradient[piece], *parts = torch.autograd.grad(value, [part, *trained])
            total += value.detach()
            for whole, part in zip(sums, parts):
                whole += part
        found = iter(sums)
        ctx.save_for_backward(gradient, *(next(found) if weight.requires_grad else None for weight in head))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, scale):
        return None, None, *(None if gradient is None else gradient * scale for gradient in ctx.saved_tensors)
