"""Item indexes: how an item is spelled in tokens. One file an index; a model never knows which one it has."""

from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.material import Interactions, Material
from recbole_genrec.index.registry import build_index, reads, register

__all__ = ["Interactions", "ItemIndex", "Material", "build_index", "reads", "register"]
