"""Constrained beam search as one writes it with Hugging Face's ``generate``: two ways to keep to the catalogue."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.index import ItemIndex
from recbole_genrec.prompt import Batch


class PrefixCallback:
    """``prefix_allowed_tokens_fn``: a dictionary from the tokens so far to those allowed next."""

    def __init__(self, index: ItemIndex):
        self.end, self.start = index.terminator, 0
        allowed: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for item in range(1, index.n_items):
            spelling = tuple(index.spelling(item))
            for length, token in enumerate(spelling):
                allowed[spelling[:length]].add(token)
        self.allowed = {prefix: list(tokens) for prefix, tokens in allowed.items()}

    def __call__(self, user: int, tokens: Tensor) -> list[int]:
        return self.allowed.get(tuple(tokens[self.start:].tolist()), [self.end])


class VectorisedMask:
    """A ``LogitsProcessor`` in tensors: all beams walk the catalogue's prefix tree at once.

    The tree's edges are one sorted array of ``node * vocabulary + token``, so a step is one binary search.
    """

    def __init__(self, callback: PrefixCallback, vocabulary: int):
        self.vocabulary, self.end, self.start = vocabulary, callback.end, 0
        number = {prefix: node for node, prefix in enumerate(sorted(callback.allowed, key=len))}
        lost = len(number)  # where titles end and finished beams stay
        edges = sorted((number[prefix] * vocabulary + token, number.get((*prefix, token), lost))
                       for prefix, tokens in callback.allowed.items() for token in tokens)
        self.key, self.to = (torch.from_numpy(np.array(column)) for column in zip(*edges))
        self.first = torch.searchsorted(self.key, torch.arange(lost + 2) * vocabulary)

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        node = torch.zeros(len(tokens), dtype=torch.int64)
        for token in tokens[:, self.start:].T:
            place = torch.searchsorted(self.key, node * self.vocabulary + token).clamp(max=len(self.key) - 1)
            node = torch.where(self.key[place] == node * self.vocabulary + token, self.to[place], len(self.first) - 2)
        count = self.first[node + 1] - self.first[node]
        row = torch.repeat_interleave(torch.arange(len(node)), count)
        place = torch.arange(len(row)) - (count.cumsum(0) - count)[row] + self.first[node][row]
        masked = torch.full_like(scores, -torch.inf)
        token = self.key[place] % self.vocabulary
        masked[row, token] = scores[row, token]
        masked[count == 0, self.end] = scores[count == 0, self.end]
        return masked


@torch.no_grad()
def generate(core, prompts: Batch, index: ItemIndex, beams: int, constraint, **how) -> tuple[list[list[int]], Tensor]:
    """Lists of ``beams`` items and their log-probabilities: prompts padded on the left, canonical beam search.

    Args:
        core: the Hugging Face model.
        constraint: sets where an answer begins; one of the classes above.
        how: the argument of ``generate`` that takes the constraint.
    """
    tokens, mask = prompts.tokens, prompts.mask
    if not core.config.is_encoder_decoder:
        width = tokens.size(1)
        column = torch.arange(width) - (width - prompts.lengths).unsqueeze(1)
        tokens, mask = tokens.gather(1, column.clamp(min=0)).masked_fill(column < 0, 0), column >= 0
    constraint.start = 1 if core.config.is_encoder_decoder else tokens.size(1)
    output = core.generate(
        input_ids=tokens, attention_mask=mask.long(), num_beams=beams, num_return_sequences=beams, do_sample=False,
        length_penalty=0.0, early_stopping="never", max_new_tokens=int(index.lengths.max()),
        eos_token_id=index.terminator, pad_token_id=0, return_dict_in_generate=True, output_scores=True, **how)
    item = {tuple(index.spelling(item)): item for item in range(1, index.n_items)}
    rows = output.sequences[:, constraint.start:].tolist()
    items = [item[tuple(row[: row.index(index.terminator) + 1])] for row in rows]
    shape = (len(tokens), beams)
    return torch.tensor(items).view(shape).tolist(), output.sequences_scores.view(shape)
