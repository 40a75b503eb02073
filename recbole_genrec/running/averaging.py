"""Averaged weights: what is evaluated and kept where ``ema_decay`` says so, instead of the last step's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recbole_genrec.running import termination


class Average:
    """Exponential moving average of the weights that train (Polyak and Juditsky 1992); buffers are not averaged.

    Args:
        model: its weights are averaged from where they are now.
        decay: share of the average that a step keeps, below 1. After ``n`` steps it is at most ``n / (n + 9)``, so that
            the first steps are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._average = {name: weight.detach().clone() for name, weight in self._trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        kept = min(self.decay, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self._average.values()), list(self._trained.values()), 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the averaged weights; its own come back at the end."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        with termination.held():  # never a mixture of both
            for name, weight in self._trained.items():
                own = weight.detach().clone()
                weight.copy_(self._average[name])
                self._average[name].copy_(own)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by name, and the steps."""
        return {**self._average, "steps": torch.tensor(self.steps)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` took."""
        self.steps = int(state["steps"])
        for name, average in self._average.items():
            average.copy_(state[name])
