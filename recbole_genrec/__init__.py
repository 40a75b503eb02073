"""Generative recommenders beside the classical sequential baselines, inside RecBole.

Importing this package registers our models with RecBole (``get_model("GenRec")`` and
``Config(model="GenRec", ...)`` then work) and applies the repairs of
:mod:`recbole_genrec.compat`. It loads no model, reads no data and opens no connection.
"""

from recbole_genrec import compat
from recbole_genrec.version import __version__

compat.register()

__all__ = ["__version__"]
