"""Training batches of rows of like length: less padding, the same samples, each once an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

#: Batches that are drawn together at random before they are sorted: more is less padding, and less chance in what
#: stands beside what.
POOL = 64


class LikeLength(Sampler[int]):
    """The samples of another sampler in an order in which each full batch holds rows of like length.

    The other sampler's order is cut into pools, each is sorted by length and cut into batches, and all batches are
    shuffled. What is left over makes the last, smaller batch, as it would without sorting.

    Args:
        sampler: draws the samples of an epoch.
        lengths: ``[N]`` length of each sample.
        batch_size: rows of a batch.
        generator: shuffles the batches.
    """

    def __init__(self, sampler: Sampler[int], lengths: Tensor, batch_size: int, generator: torch.Generator):
        self.sampler, self.lengths, self.batch_size, self.generator = sampler, lengths, batch_size, generator

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        order = torch.tensor(list(self.sampler))
        full = len(order) // self.batch_size * self.batch_size
        pools = [pool[self.lengths[pool].argsort()] for pool in order[:full].split(POOL * self.batch_size)]
        batches = torch.cat(pools).view(-1, self.batch_size)
        batches = batches[torch.randperm(len(batches), generator=self.generator)]
        yield from torch.cat([batches.flatten(), order[full:]]).tolist()
