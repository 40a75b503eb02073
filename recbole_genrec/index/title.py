"""Titles as item ids (GenRec, Ji et al. 2023, section 3.1), every item told apart.

Two items with one title stay two items: all but one of them get a number, in the order of a hash of the raw
item id. That order knows nothing of users, so it cannot leak a target, and it is the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.material import Material


def line_break_of(tokenizer) -> int:
    """Token that ends a line: the line break, which no title contains, or else a special token.

    The line break is one token in byte-level and sentencepiece vocabularies and keeps a pre-trained model on
    text that it knows (one title a line). Tokenizers that swallow line breaks get ``sep`` (BERT's) or ``eos`` (T5's).
    """
    for candidate in ("\n", "Ċ", "<0x0A>"):
        ids = tokenizer.encode(candidate, add_special_tokens=False) if candidate == "\n" else \
            [tokenizer.convert_tokens_to_ids(candidate)]
        if len(ids) == 1 and ids[0] is not None and ids[0] != tokenizer.unk_token_id \
                and tokenizer.decode(ids).strip(" ") == "\n":
            return ids[0]
    for special in (tokenizer.sep_token_id, tokenizer.eos_token_id):
        if special is not None:
            return special
    raise ValueError("the tokenizer has neither a line break nor an end-of-sequence token to end an item with")


def terminator_of(material: Material) -> int:
    """Token that ends every spelling."""
    return line_break_of(material.tokenizer) if material.terminator is None else material.terminator


def build(material: Material) -> ItemIndex:
    """Spell every item by its title, as the tokenizer encodes the title on its own."""
    catalogue, tokenizer, lead = material.catalogue, material.tokenizer, material.lead
    terminator = terminator_of(material)
    texts = list(catalogue.titles)

    def encode(texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens and without the terminator."""
        # A title may hold what looks like a special token: it is text.
        ids = tokenizer([lead + text if text else "" for text in texts], add_special_tokens=False,
                        split_special_tokens=True)["input_ids"]
        return [[token for token in row if token != terminator] for row in ids]

    spellings = encode(texts)
    order = [hashlib.sha256(token.encode()).digest() for token in catalogue.item_tokens]

    collided, attempt = set(), defaultdict(lambda: 1)
    while True:
        groups = defaultdict(list)
        for item in range(1, len(texts)):
            groups[tuple(spellings[item])].append(item)
        clashing = []
        for items in groups.values():
            if len(items) > 1:
                collided.update(items)
                # One item keeps the spelling: one that already has a number, else the first by hash.
                clashing += sorted(items, key=lambda item: (attempt[item] == 1, order[item]))[1:]
        if not clashing:
            break
        # Each clash takes the next number that is free for its title; numbers grow, so this ends.
        taken = defaultdict(int)
        clashing.sort(key=order.__getitem__)  # one title may stand in several groups: their order must not show
        for item in clashing:
            title = catalogue.titles[item]
            taken[title] = max(taken[title] + 1, attempt[item] + 1)
            attempt[item] = taken[title]
            texts[item] = f"{title} [{attempt[item]}]"
        for item, spelling in zip(clashing, encode([texts[item] for item in clashing])):
            spellings[item] = spelling

    report = {"items": len(texts) - 1, "items_without_title": catalogue.n_missing,
              "items_sharing_title": len(collided)}
    return ItemIndex.from_spellings(spellings[1:], texts, terminator, report)

