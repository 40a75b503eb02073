"""Prompts as token tensors: segments of one flat token table, laid side by side without a Python loop.

A prompt is a row of *segments*: prefix (instruction), one segment an item of the history, oldest first, suffix,
and in training the target. Every segment was tokenised on its own, so training and inference see the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.index import ItemIndex
from recbole_genrec.settings import property_file, property_names, read_yaml


@dataclass
class PromptTemplate:
    """The wording: one prefix per instruction, and the suffix.

    Attributes:
        prefixes: text before the history, one per instruction; the first is the one of evaluation.
        suffix: text between the history and the answer; "" if the layout has no answer marker.
        fingerprint: hash of all wording.
    """

    prefixes: list[str]
    suffix: str
    fingerprint: str

    @classmethod
    def load(cls, name: str, domain: str | None, with_suffix: bool) -> "PromptTemplate":
        """Read ``properties/prompt/<name>.yaml`` and fill in the words of the data set's domain.

        Raises:
            UserError: no such prompt.
        """
        path = property_file("prompt", name)
        if not os.path.isfile(path):
            names = property_names("prompt")
            hint = did_you_mean(name, names) or f"; prompts: {', '.join(names)}"
            raise UserError(f"unknown prompt '{name}'{hint}")
        content = read_yaml(path)
        words = content["domains"].get(domain, content["domains"]["default"])
        prefixes = [content["prefix"].format(instruction=instruction.format(**words))
                    for instruction in content["instructions"]]
        suffix = content["suffix"] if with_suffix else ""
        wording = json.dumps([content["version"], prefixes, suffix])
        return cls(prefixes, suffix, hashlib.sha256(wording.encode()).hexdigest()[:16])


@dataclass
class Batch:
    """Token rows padded on the right.

    Attributes:
        tokens: ``[B, T]`` int64, 0 where padded.
        lengths: ``[B]`` int64 real tokens of each row.
        segment: ``[B, T]`` int64 column of the segment matrix that each token came from.
        node: ``[B, T]`` int64 trie node that an item's token leads to; 0 for the words around the items.
    """

    tokens: Tensor
    lengths: Tensor
    segment: Tensor
    node: Tensor

    @property
    def mask(self) -> Tensor:
        """``[B, T]`` bool, true where a real token stands."""
        return torch.arange(self.tokens.size(1), device=self.tokens.device) < self.lengths.unsqueeze(1)

    def rows(self, rows: Tensor) -> "Batch":
        """Some rows, without the padding that only the others needed."""
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return Batch(*(t[rows, :width] if t.dim() == 2 else lengths
                       for t in (self.tokens, self.lengths, self.segment, self.node)))

    def groups(self, size: int) -> list[Tensor]:
        """Row numbers in groups of at most ``size``, rows of like length together: less padding, less work."""
        return list(self.lengths.argsort(stable=True).split(size))


class PromptBuilder:
    """Turns histories of item ids into token rows.

    Args:
        index: spelling of every item.
        tokenizer: for the template's text and the begin-of-sequence token.
        template: the wording.
        max_tokens: tokens of a prompt (prefix, history and suffix); the oldest items go first. Raised where needed
            so that the newest item always fits: no title is ever cut.
    """

    def __init__(self, index: ItemIndex, tokenizer, template: PromptTemplate, max_tokens: int):
        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        pieces = [begin + encode(prefix) for prefix in template.prefixes] + [encode(template.suffix)]
        # Segment ids: 0 .. n_items - 1 are the items (0 is the empty padding item), then prefixes, then the suffix.
        extra = torch.tensor([token for piece in pieces for token in piece], dtype=torch.int64)
        self.table = torch.stack([torch.cat([index.tokens, extra]), torch.cat([index.nodes, torch.zeros_like(extra)])])
        self.length = torch.cat([index.lengths, torch.tensor([len(piece) for piece in pieces])])
        self.begin = self.length.cumsum(0) - self.length
        self.first_prefix = index.n_items
        self.n_prefixes = len(template.prefixes)
        self.suffix = index.n_items + self.n_prefixes
        frame = self.length[self.first_prefix:self.suffix].max() + self.length[self.suffix]
        self.max_tokens = max(max_tokens, int(frame + index.lengths.max()))

    def to(self, device: torch.device) -> "PromptBuilder":
        """Move the token table to the device on which prompts are made (in place)."""
        self.table, self.length, self.begin = (t.to(device) for t in (self.table, self.length, self.begin))
        return self

    def __call__(self, history: Tensor, target: Tensor | None = None, random_instruction: bool = False) -> Batch:
        """Lay out the rows.

        Args:
            history: ``[B, L]`` item ids, oldest first, 0 where there is none.
            target: ``[B]`` item ids to append (training), or None.
            random_instruction: draw the instruction per row (training) instead of the first one.
        Returns:
            a Batch whose segment columns are: 0 prefix, 1 .. L history, L + 1 suffix, L + 2 target.
        """
        rows, device = len(history), history.device
        prefix = torch.randint(self.n_prefixes, (rows, 1), device=device) if random_instruction else \
            torch.zeros((rows, 1), dtype=torch.int64, device=device)
        prefix = prefix + self.first_prefix
        suffix = torch.full((rows, 1), self.suffix, device=device)
        room = self.max_tokens - self.length[prefix] - self.length[suffix]
        # Tokens from each item to the end of the history; an item stays if that still fits.
        from_here = self.length[history].flip(1).cumsum(1).flip(1)
        history = torch.where(from_here <= room, history, 0)
        segments = [prefix, history, suffix] + ([] if target is None else [target.unsqueeze(1)])
        return self._lay_out(torch.cat(segments, dim=1))

    def _lay_out(self, segments: Tensor) -> Batch:
        """``[B, S]`` segment ids -> their tokens side by side."""
        rows, device = len(segments), segments.device
        length = self.length[segments]
        flat_length = length.flatten()
        within_row = (length.cumsum(1) - length).flatten()
        total = int(flat_length.sum())
        piece = torch.repeat_interleave(torch.arange(len(flat_length), device=device), flat_length, output_size=total)
        inside = torch.arange(total, device=device) - (flat_length.cumsum(0) - flat_length)[piece]
        row, column = piece // segments.size(1), within_row[piece] + inside
        lengths = length.sum(1)
        shape = (rows, int(lengths.max()) if rows else 0)
        tokens, segment, node = torch.zeros((3, *shape), dtype=torch.int64, device=device)
        source = self.begin[segments.flatten()[piece]] + inside
        tokens[row, column], node[row, column] = self.table[0, source], self.table[1, source]
        segment[row, column] = piece % segments.size(1)
        return Batch(tokens, lengths, segment, node)
