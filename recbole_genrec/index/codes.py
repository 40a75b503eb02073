"""What indexes of numbers share: a seeded order of the items, and numbers spelled as text.

Codes are written in digits with a blank between them (``12 7 30``), not as new tokens: a new token has a random row in
the embedding and in the head, which LoRA leaves frozen, while every pre-trained vocabulary has digits. The blank is
where tokenizers of all kinds split words, so no token spans two codes, items that share codes share tokens, and the
text can be read back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_genrec.errors import UserError
from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.material import Material
from recbole_genrec.index.title import terminator_of


def hashes(material: Material) -> np.ndarray:
    """``[N]`` uint64 of items 1, 2, ...: a hash of the run's seed and the raw id, and of nothing else."""
    keys = (f"{material.seed} {token}".encode(errors="surrogatepass") for token in material.catalogue.item_tokens[1:])
    return np.frombuffer(b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in keys), dtype="<u8")


def seeded_order(material: Material) -> np.ndarray:
    """``[N]`` int64 all items in an order that depends on the seed and the set of raw ids only.

    Whatever goes through items in this order knows nothing of RecBole's numbering, which is that of first appearance.
    """
    value, tokens = hashes(material), material.catalogue.item_tokens
    return 1 + np.array(sorted(range(len(value)), key=lambda place: (value[place], tokens[place + 1])), dtype=np.int64)


def spell(material: Material, paths: Sequence[Sequence[int]], report: dict[str, Any]) -> ItemIndex:
    """The index in which each item is spelled by its numbers.

    Args:
        paths: numbers of items 1, 2, ...; no two alike.
        report: for the result record.
    Raises:
        UserError: the tokenizer spells two items alike (it has no digits), or one with nothing.
    """
    tokenizer = material.tokenizer
    terminator = terminator_of(material)
    texts = [material.lead + " ".join(map(str, path)) for path in paths]
    spellings = tokenizer(texts, add_special_tokens=False)["input_ids"]
    known: set[tuple[int, ...]] = set()
    for text, spelling in zip(texts, map(tuple, spellings)):
        if not spelling or spelling in known or terminator in spelling:
            raise UserError(f"the backbone's tokenizer cannot spell items by numbers: '{text.strip()}' is not told "
                            "from another item or from the end of one; use item_index=title")
        known.add(spelling)
    report = {"items": len(texts), "items_without_title": material.catalogue.n_missing, **report}
    return ItemIndex.from_spellings(spellings, ["", *(text.strip() for text in texts)], terminator, report)
