"""Generative recommenders beside the classical sequential baselines, inside RecBole.

Importing this package registers our models with RecBole (``get_model("GenRec")`` and
``Config(model="GenRec", ...)`` then work) and applies the repairs of
:mod:`recbole_genrec.compat`. It loads no model, reads no data and opens no connection.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from recbole_genrec import compat
from recbole_genrec.model import registration
from recbole_genrec.version import __version__

if TYPE_CHECKING:
    from recbole_genrec.recommend import Recommender

compat.repair()
registration.register()

__all__ = ["__version__", "load"]


def load(run_dir: str | os.PathLike, data_path: str | os.PathLike | None = None) -> Recommender:
    """The trained model of a run, for recommendations in words: see :func:`recbole_genrec.recommend.load`."""
    from recbole_genrec.recommend import load as load_run

    return load_run(run_dir, data_path)
