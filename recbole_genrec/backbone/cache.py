"""Keys and values of one attention layer that are written once and never moved while a tree of tokens grows."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """A cache layer in a buffer that doubles when it is full (``DynamicLayer`` copies everything at each token)."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._room = [key_states.contiguous(), value_states.contiguous()]
            return self.keys, self.values
        begin = self.keys.size(2)
        end = begin + key_states.size(2)
        if end > self._room[0].size(2):
            self._room = [_grown(old, end + end // 2) for old in (self.keys, self.values)]
        for room, new in zip(self._room, (key_states, value_states)):
            room[:, :, begin:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = [self.keys, self.values]

    def forget(self, length: int) -> None:
        """Keep the first ``length`` tokens."""
        self.keys, self.values = (room[:, :, :length] for room in self._room)


def growing_cache() -> Cache:
    """An empty cache of growing layers for any Hugging Face decoder."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def keep(cache: Cache, part: Cache, rows: Tensor, shape: tuple[int, int]) -> None:
    """Copy the keys and values of some rows into the cache of all.

    Args:
        part: cache of ``rows``, as long as the longest of them.
        rows: where they go.
        shape: number of all rows, and tokens of the longest.
    """
    for number, layer in enumerate(part.layers):
        if number == len(cache.layers):
            empty = [values.new_zeros(shape[0], values.size(1), shape[1], values.size(3))
                     for values in (layer.keys, layer.values)]
            cache.update(*empty, number)
        cache.layers[number].keys[rows, :, :layer.keys.size(2)] = layer.keys
        cache.layers[number].values[rows, :, :layer.values.size(2)] = layer.values


def _grown(old: Tensor, size: int) -> Tensor:
    room = old.new_empty(*old.shape[:2], size, old.size(3))
    room[:, :, :old.size(2)] = old
    return room


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as what is added to attention scores: finite, so that every attention implementation takes it."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
