"""The language-model head in pieces: logits of a wide vocabulary exist for a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

#: Logits of a piece, at most: 32 MB in fp32. The loss does not depend on it.
LOGITS = 1 << 23
#: Positions of a piece, at least: fewer would spend their time on adding up the head's gradient.
POSITIONS = 256


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
