"""Prompts as token tensors: segments of one flat token table, laid side by side without a Python loop.

A prompt is a row of *segments*: prefix (instruction), one segment an item of the history, oldest first, suffix,
and in training the target. Every segment was tokenised on its own, so training and inference see the same tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.index import ItemIndex
from recbole_genrec.settings import named_file, property_file, read_yaml
from recbole_genrec.template import cut


def read_prompt(name: str, domain: str | None, form: dict[str, type],
                also: Iterable[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """``properties/prompt/<name>.yaml`` or a YAML file of the user's own, and its words for a data set's domain.

    The words are the prompt's own ``domains``, or those of ``properties/domains.yaml``.

    Args:
        name: of the prompt, or a file's path.
        domain: ``about: domain:`` of the data set.
        form: what a model reads there: key -> ``str`` or ``list`` (of texts, at least one) or ``dict``.
        also: other keys that may stand there.
    Raises:
        UserError: no such prompt, or one of another form.
    """
    content = read_yaml(named_file("prompt", name))
    for key, kind in form.items():
        value = content.get(key)
        if not isinstance(value, kind) or not value and kind is list or \
                kind is list and not all(isinstance(text, str) for text in value):
            raise UserError(f"prompt={name} has no {_FORMS[kind]} '{key}': is it of another model's form?")
    known = [*form, *also, "version", "domains"]
    for key in content:
        if key not in known:
            raise UserError(f"prompt={name}: unknown key '{key}'" + did_you_mean(str(key), known))
    domains = content.get("domains") or read_yaml(property_file("", "domains"))
    words = domains.get(domain, domains.get("default", {})) if isinstance(domains, dict) else None
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise UserError(f"prompt={name}: 'domains' must say for each domain which text a word stands for")
    return content, words


def fingerprint_of(*wording: Any) -> str:
    """Hash of all wording: two runs with the same one read the same words."""
    return hashlib.sha256(json.dumps(wording, sort_keys=True).encode()).hexdigest()[:16]


#: On a CPU groups of about so many tokens go through a model fastest; on a GPU nothing was measured.
GROUP_TOKENS = 2048
_FORMS = {str: "text", list: "list of texts", dict: "mapping"}


def filled(text: str, words: dict[str, str]) -> str:
    """``text`` with each ``{word}`` replaced.

    Raises:
        UserError: a word that there is not, or braces that do not match.
    """
    try:
        return "".join(words[piece] if is_name else piece for is_name, piece in cut(text))
    except (LookupError, ValueError):
        known = f"what stands between braces must be one of {', '.join(words)}" if words else \
            "its domains have no words for this data set, and no 'default'"
        raise UserError(f"prompt {text!r}: {known}") from None


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
            UserError: no such prompt, or none of this form.
        """
        content, words = read_prompt(name, domain, {"instructions": list, "prefix": str, "suffix": str})
        prefixes = [filled(content["prefix"], {"instruction": filled(instruction, words)})
                    for instruction in content["instructions"]]
        suffix = content["suffix"] if with_suffix else ""
        return cls(prefixes, suffix, fingerprint_of(content.get("version"), prefixes, suffix))


@dataclass
class Rows:
    """Token rows padded on the right.

    Attributes:
        tokens: ``[B, T]`` int64, 0 where padded.
        lengths: ``[B]`` int64 real tokens of each row.
    """

    tokens: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """``[B, T]`` bool, true where a real token stands."""
        return torch.arange(self.tokens.size(1), device=self.tokens.device) < self.lengths.unsqueeze(1)

    def rows(self, rows: Tensor) -> Self:
        """Some rows, without the padding that only the others needed."""
        width = int(self.lengths[rows].max()) if len(rows) else 0
        parts = (getattr(self, field.name)[rows] for field in fields(self))
        return type(self)(*(part[:, :width] if part.dim() == 2 else part for part in parts))

    def to(self, device: torch.device) -> Self:
        """The same rows on another device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))

    def groups(self) -> list[Tensor]:
        """Row numbers in groups of like length of at most ``GROUP_TOKENS`` tokens with their padding, or of one row."""
        order = self.lengths.argsort(stable=True)
        groups, begin = [], 0
        for end, length in enumerate(self.lengths[order].tolist()):
            if end > begin and (end + 1 - begin) * length > GROUP_TOKENS:
                groups.append(order[begin:end])
                begin = end
        return [*groups, order[begin:]]


@dataclass
class Batch(Rows):
    """Rows of segments.

    Attributes:
        segment: ``[B, T]`` int64 column of the segment matrix that each token came from.
        node: ``[B, T]`` int64 trie node that an item's token chooses among its siblings; 0 where the token is forced,
            and for the words around the items.
        item: ``[B, T]`` int64 the item that ends at a token; 0 everywhere else.
    """

    segment: Tensor
    node: Tensor
    item: Tensor

    @property
    def ends(self) -> Tensor:
        """``[B, T]`` bool, the token at which each item of the row ends: history and target, each once, in order."""
        return self.item > 0

    @property
    def pairs(self) -> Tensor:
        """Number of pairs of a token and a token that it sees, itself included."""
        return (self.lengths * (self.lengths + 1) // 2).sum()


@dataclass
class BranchedBatch(Batch):
    """Rows of one trunk (prefix and history) with a branch (suffix and title) for each target.

    A branch sees the trunk up to the item before its target, and itself: what it says is what a row of its own would.

    Attributes:
        branch: ``[B, T]`` int64, 0 in the trunk, else the place of the target among the row's items.
        seen: ``[B, T]`` int64, how much of the trunk each token sees.
    """

    branch: Tensor
    seen: Tensor

    @property
    def ends(self) -> Tensor:
        # Of the branches the last alone: the other targets stand in the trunk, too.
        return super().ends & ((self.branch == 0) | (self.branch == self.branch.amax(1, keepdim=True)))

    @property
    def position(self) -> Tensor:
        """``[B, T]`` int64 position of each token in the row of its own that its branch stands for."""
        column = torch.arange(self.tokens.size(1), device=self.tokens.device).expand_as(self.branch)
        starts = torch.ones_like(self.branch, dtype=torch.bool)
        starts[:, 1:] = self.branch[:, 1:] != self.branch[:, :-1]
        begin = torch.where(starts, column, 0).cummax(1).values
        place = torch.where(self.branch > 0, self.seen + column - begin, column)
        return place.masked_fill(~self.mask, 0)  # padding may stand beyond what the model was made for

    @property
    def pairs(self) -> Tensor:
        return ((self.position + 1) * self.mask).sum()  # a token sees all that stands before it in its own row

    @property
    def visible(self) -> Tensor:
        """``[B, T, T]`` bool: token ``t`` (second axis) sees token ``s`` (third axis)."""
        column = torch.arange(self.tokens.size(1), device=self.tokens.device)
        trunk = (self.branch == 0).unsqueeze(1) & (column < self.seen.unsqueeze(2))
        same = (self.branch.unsqueeze(1) == self.branch.unsqueeze(2)) & (self.branch > 0).unsqueeze(1)
        return trunk | (same & (column <= column.unsqueeze(1)))


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
        ended = torch.zeros_like(index.tokens)
        ended[index.lengths[1:].cumsum(0) - 1] = torch.arange(1, index.n_items)
        none = torch.zeros_like(extra)
        self.table = torch.stack([torch.cat([index.tokens, extra]), torch.cat([index.nodes, none]),
                                  torch.cat([ended, none])])
        self.length = torch.cat([index.lengths, torch.tensor([len(piece) for piece in pieces])])
        self.begin = self.length.cumsum(0) - self.length
        self.first_prefix = index.n_items
        self.n_prefixes = len(template.prefixes)
        self.suffix = index.n_items + self.n_prefixes
        frame = self.length[self.first_prefix:self.suffix].max() + self.length[self.suffix]
        self.max_tokens = max(max_tokens, int(frame + index.lengths.max()))

    @property
    def largest_token(self) -> int:
        """Largest token id in any prompt."""
        return int(self.table[0].max())

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
        prefix, history, suffix = self._frame(history, random_instruction)
        segments = [prefix, history, suffix] + ([] if target is None else [target.unsqueeze(1)])
        return self._lay_out(torch.cat(segments, dim=1))

    def branched(self, history: Tensor, target: Tensor, random_instruction: bool = False) -> BranchedBatch:
        """Lay out each history once, with a branch for every item after its first one and for the target.

        Arguments as :meth:`__call__`. Segment columns are: 0 prefix, 1 .. L history, then L pairs of suffix and
        title (pair ``j`` of the ``j + 1``-th item), the target's last.
        """
        prefix, history, suffix = self._frame(history, random_instruction)
        longest = history.size(1)
        # Items stand at the left (RecBole's layout) but for those that max_tokens has taken from there.
        title = torch.cat([history[:, 1:], torch.zeros_like(target).unsqueeze(1)], dim=1)
        last = longest - 1 - (history != 0).flip(1).int().argmax(1)
        title.scatter_(1, last.unsqueeze(1), target.unsqueeze(1))
        title = torch.where(history != 0, title, 0)  # the oldest item that is left has no history to see
        pairs = torch.stack([torch.where(title != 0, suffix, 0), title], dim=2).flatten(1)
        batch = self._lay_out(torch.cat([prefix, history, pairs], dim=1))
        column = batch.segment
        branch = torch.where(batch.mask & (column > longest), (column - longest + 1) // 2, 0)
        trunk = self.length[torch.cat([prefix, history], dim=1)].cumsum(1)  # tokens up to each of its segments' end
        own = torch.arange(column.size(1), device=column.device) + 1
        seen = torch.where(branch > 0, trunk.gather(1, branch), own)
        return BranchedBatch(batch.tokens, batch.lengths, batch.segment, batch.node, batch.item, branch, seen)

    def _frame(self, history: Tensor, random_instruction: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, 1]`` prefix, ``[B, L]`` the items that fit (0 where one was dropped), ``[B, 1]`` suffix segments."""
        rows, device = len(history), history.device
        prefix = torch.randint(self.n_prefixes, (rows, 1), device=device) if random_instruction else \
            torch.zeros((rows, 1), dtype=torch.int64, device=device)
        prefix = prefix + self.first_prefix
        suffix = torch.full((rows, 1), self.suffix, device=device)
        room = self.max_tokens - self.length[prefix] - self.length[suffix]
        return prefix, newest_that_fit(history, self.length, room), suffix

    def _lay_out(self, segments: Tensor) -> Batch:
        """``[B, S]`` segment ids -> their tokens side by side."""
        lengths, to, source, place = lay_out(segments, self.begin, self.length)
        shape = (len(segments), int(lengths.max()) if len(segments) else 0)
        tokens, segment, node, item = torch.zeros((4, *shape), dtype=torch.int64, device=segments.device)
        tokens[to], node[to], item[to] = self.table[:, source]
        segment[to] = place
        return Batch(tokens, lengths, segment, node, item)


def newest_that_fit(items: Tensor, length: Tensor, room: Tensor) -> Tensor:
    """``[B, L]`` items, oldest first, with 0 where one is dropped so that the rest has at most ``[B, 1]`` tokens."""
    # Tokens from each item to the end of the history; an item stays if that still fits.
    from_here = length[items].flip(1).cumsum(1).flip(1)
    return torch.where(from_here <= room, items, 0)


def lay_out(segments: Tensor, begin: Tensor,
            length: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    """Where the tokens of rows of segments come from and go to.

    Args:
        segments: ``[B, S]`` segment ids.
        begin, length: ``[N]`` of each segment in a flat table of tokens.
    Returns:
        ``[B]`` lengths of the rows; row and column of each token, ``[M]`` each; its place in the table; the column of
        ``segments`` that it is from.
    """
    lengths = length[segments]
    flat = lengths.flatten()
    within_row = (lengths.cumsum(1) - lengths).flatten()
    total = int(flat.sum())
    piece = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), flat, output_size=total)
    inside = torch.arange(total, device=flat.device) - (flat.cumsum(0) - flat)[piece]
    to = (piece // segments.size(1), within_row[piece] + inside)
    return lengths.sum(1), to, begin[segments.flatten()[piece]] + inside, piece % segments.size(1)
