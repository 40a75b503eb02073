"""What an index is made of: the catalogue, the tokenizer, and of users' sequences no more than it declares to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.windows import TARGET_ROW


@dataclass(frozen=True)
class Interactions:
    """Interactions in time order: users in the order in which the file first names them, each oldest first.

    Attributes:
        user, item: ``[n]`` int64 internal ids.
    """

    user: np.ndarray
    item: np.ndarray

    @classmethod
    def of_training(cls, part) -> "Interactions | None":
        """Those of the training part: its targets, and the first item of each user, which is nobody's target.

        No target of validation or test is among them. None: ``part`` is not of our data set class.
        """
        if not hasattr(part, "sequences"):
            return None
        sequences, rows = part.sequences, part.inter_feat[TARGET_ROW]
        known = torch.zeros(len(sequences.item), dtype=torch.bool)
        known[rows] = True
        known[sequences.start[rows]] = True
        return cls(sequences.user[known].numpy(), sequences.item[known].numpy())

    @classmethod
    def of_everything(cls, part) -> "Interactions | None":
        """All interactions of the data set, the targets of validation and test among them."""
        if not hasattr(part, "sequences"):
            return None
        return cls(part.sequences.user.numpy(), part.sequences.item.numpy())


@dataclass(frozen=True)
class Material:
    """The one argument of an index's ``build``.

    Attributes:
        catalogue: titles and raw ids by item id.
        tokenizer: of the backbone.
        seed: the run's.
        terminator: token that ends every spelling; None: that of a line.
        lead: text before every spelling.
        options: settings of the run, by key.
        training: interactions of the training part; None unless the index declares ``@reads("training")``.
        everything: all interactions; None unless the index declares ``@reads("everything")``, which makes it leaky.
    """

    catalogue: Catalogue
    tokenizer: Any
    seed: int = 0
    terminator: int | None = None
    lead: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Interactions | None = None
    everything: Interactions | None = None
