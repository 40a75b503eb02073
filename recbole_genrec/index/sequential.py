"""P5's sequential indexing (Geng et al. 2022, arXiv:2203.13366; named by Hua et al. 2023, arXiv:2305.06569). LEAKY.

Users are walked in the order of the file, each one's items in time order, validation and test items included, and
an item gets the next number when it is first met. Items of one user thus have neighbouring numbers: "the largest number
so far + 1" finds test items without any training. It is here to reproduce published figures and to show what the
leak is worth; every record and leaderboard row made with it says ``leaky``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.codes import seeded_order, spell
from recbole_genrec.index.material import Material
from recbole_genrec.index.registry import reads


@reads("everything")
def build(material: Material) -> ItemIndex:
    """Spell every item by the number of its first appearance; items that nobody has come last, in a seeded order."""
    met = pd.unique(np.concatenate([material.everything.item, seeded_order(material)]))
    number = np.empty(len(met), dtype=np.int64)
    number[met - 1] = np.arange(1, len(met) + 1)
    return spell(material, number[:, None].tolist(), {})
