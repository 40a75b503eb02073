"""Training batches of rows of like length: less padding, the same steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


class LikeLength(Sampler[int]):
    """The samples of another sampler, sorted by length among those of one optimizer step.

    A step's gradient is a sum over its batches, so it does not depend on how its samples are dealt to them. Sorted
    more widely they would waste less on padding, but a step would see users of one length alone: SASRec's network then
    loses a tenth of its ndcg@10 on amazon-toys (results/amazon.md).

    Args:
        sampler: draws the samples of an epoch.
        lengths: ``[N]`` length of each sample.
        step: samples of an optimizer step.
    """

    def __init__(self, sampler: Sampler[int], lengths: Tensor, step: int):
        self.sampler, self.lengths, self.step = sampler, lengths, step

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        for step in torch.tensor(list(self.sampler), dtype=torch.int64).split(self.step):
            yield from step[self.lengths[step].argsort()].tolist()
