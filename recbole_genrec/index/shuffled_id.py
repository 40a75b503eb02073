"""Random numbers as item ids: 1 .. N, dealt by the run's seed (GenRecT5, Cao and Lio 2024; P5 without its leak).

The number depends on the raw item id, the set of raw ids and the seed. It says nothing of users, of time or of the
order of the file; two items with near numbers have nothing in common. Another seed deals anew.
"""

from __future__ import annotations

import numpy as np

from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.codes import seeded_order, spell
from recbole_genrec.index.material import Material


def build(material: Material) -> ItemIndex:
    """Spell every item by its number."""
    order = seeded_order(material)
    number = np.empty(len(order), dtype=np.int64)
    number[order - 1] = np.arange(1, len(order) + 1)
    return spell(material, number[:, None].tolist(), {})
