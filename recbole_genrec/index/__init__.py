"""Item indexes: how an item is spelled in tokens. One file an index; a model never knows which one it has."""

from recbole_genrec.index.base import ItemIndex, build_index

__all__ = ["ItemIndex", "build_index"]
