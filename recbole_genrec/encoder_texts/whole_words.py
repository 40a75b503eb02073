"""Prompts for an encoder-decoder in which every token knows which whole word it is part of (P5, Geng et al. 2022).

A prompt is a template with the user and the history filled in, items parted by a separator. Words are counted from 1
along the prompt, so that the pieces into which a tokenizer cuts an id are told to belong together (paper, section 4.1,
"whole-word embedding"). A user and an item are one word each, however many blanks their spelling has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from recbole_genrec.encoder_texts.segments import SegmentTable
from recbole_genrec.index import ItemIndex
from recbole_genrec.prompt import Rows, lay_out
from recbole_genrec.template import Template


@dataclass
class WholeWordBatch(Rows):
    """Prompts.

    Attributes:
        word: ``[B, T]`` int64 number of each token's word, from 1; 0 for the end of the text and where padded.
    """

    word: Tensor


class WholeWordTexts(SegmentTable):
    """Fills in templates.

    Args:
        index: spelling of every item; its terminator ends an answer and is left out in prompts.
        users: ``n_users`` token lists, one a user; the first is the padding's.
        templates: with the slots ``user`` and ``history``.
        separator: text between two items.
        tokenizer: for the wording.
        end: token after each prompt.
        max_tokens: of a prompt. The oldest items go first. Raised where needed so that every template fits with a user
            and an item.
    """

    def __init__(self, index: ItemIndex, users: list[list[int]], templates: Sequence[Template], separator: str,
                 tokenizer, end: int, max_tokens: int):
        texts = [separator]
        self.layouts: list[list[str | int]] = []  # of each template: slots, and numbers of pieces
        for template in templates:
            layout = []
            for is_slot, content in template.pieces:
                # What fills a slot begins with a blank of its own.
                if is_slot:
                    layout.append(content)
                elif content.strip():
                    layout.append(len(texts))
                    texts.append(content.rstrip(" "))
            self.layouts.append(layout)
        pieces, words = zip(*(_pieces(tokenizer, text) for text in texts))
        super().__init__(index, users, [*pieces, [end]])
        self.ending = self.first_piece + len(texts)
        self.layouts = [[part if isinstance(part, str) else self.first_piece + part for part in layout]
                        for layout in self.layouts]
        inside = torch.zeros(int(self.begin[self.first_piece]), dtype=torch.int64)  # an item or a user is one word
        self.inside = torch.cat([inside, torch.tensor([word for piece in words for word in piece] + [0])])
        self.words = (self.length > 0).long()
        self.words[self.first_piece:self.ending] = torch.tensor([max(piece, default=-1) + 1 for piece in words])
        self.words[self.ending] = 0
        frame = torch.tensor([sum(int(self.length[part]) for part in layout if not isinstance(part, str)) + 1
                              for layout in self.layouts])
        self.max_tokens = max(max_tokens, int(frame.max()) + self.longest_user + self.longest_item)
        self.room = self.max_tokens - frame

    def __call__(self, user: Tensor, items: Tensor, template: Tensor) -> WholeWordBatch:
        """The prompts.

        Args:
            user: ``[B]`` user ids; 0 for an unknown one, who is not written.
            items: ``[B, L]`` item ids, oldest first, 0 where there is none.
            template: ``[B]`` number of each row's template.
        """
        apart = int(self.length[self.first_piece])
        # No separator stands behind the last item, so one that would not fit there need not.
        items = self.newest(user, items, self.room[template] + apart, apart)
        following = torch.nn.functional.pad((items != 0).flip(1).cumsum(1).flip(1)[:, 1:], (0, 1)) > 0
        between = torch.where((items != 0) & following, self.first_piece, 0)
        history = torch.stack([items, between], 2).flatten(1)
        rows, columns = len(items), max(map(len, self.layouts)) + history.size(1)
        segments = torch.zeros((rows, columns), dtype=torch.int64, device=items.device)
        for number in template.unique().tolist():
            row = (template == number).nonzero().squeeze(1)
            filled = {"user": (self.n_items + user[row]).unsqueeze(1), "history": history[row]}
            parts = [filled[part] if isinstance(part, str) else segments.new_full((len(row), 1), part)
                     for part in [*self.layouts[number], self.ending]]
            text = torch.cat(parts, 1)
            segments[row, :text.size(1)] = text
        lengths, to, source, place = lay_out(segments, self.begin, self.length)
        tokens, word = torch.zeros((2, rows, int(lengths.max())), dtype=torch.int64, device=items.device)
        count = self.words[segments]
        tokens[to] = self.tokens[source]
        word[to] = torch.where(segments[to[0], place] == self.ending, 0,
                               (count.cumsum(1) - count)[to[0], place] + self.inside[source] + 1)
        return WholeWordBatch(tokens, lengths, word)


def _pieces(tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Tokens of a text, and the number of each one's word, from 0: words are what blanks part."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = [not letter.isspace() and (place == 0 or text[place - 1].isspace()) for place, letter in enumerate(text)]
    word = [count - 1 for count in accumulate(begins)]
    last = [begin + len(text[begin:]) - len(text[begin:].lstrip()) for begin, _ in encoded["offset_mapping"]]
    return encoded["input_ids"], [max(0, word[min(place, len(text) - 1)]) for place in last]
