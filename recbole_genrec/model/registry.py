"""Which models exist, by name: ours first, then RecBole's sequential ones."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import lru_cache
from pathlib import Path

from recbole_genrec.compat import anomaly_mode_kept
from recbole_genrec.errors import UserError, did_you_mean

OURS, RECBOLE = "recbole_genrec.model.sequential_recommender", "recbole.model.sequential_recommender"


@lru_cache(maxsize=None)
def models_of(package: str) -> dict[str, str]:
    """Models of a package, class name -> module name, read from the sources without importing them.

    RecBole's rule tells a model from its helpers: the class is called like the module, but for capitals.
    """
    folder = Path(importlib.util.find_spec(package).origin).parent
    names = {}
    for module in pkgutil.iter_modules([str(folder)]):
        for line in (folder / f"{module.name}.py").read_text(encoding="utf-8").splitlines():
            name = line[6:].split("(")[0].rstrip(":")
            if line.startswith("class ") and name.lower() == module.name:
                names[name] = f"{package}.{module.name}"
    return names


def get_model(name: str) -> type:
    """The model class of that name.

    Raises:
        UserError: no such model; the nearest name is given.
    """
    ours = models_of(OURS)
    modules = ours | {model: module for model, module in models_of(RECBOLE).items() if model not in ours}
    if name not in modules:
        raise UserError(f"unknown model '{name}'" + (did_you_mean(name, modules) or "; models: " + ", ".join(modules)))
    with anomaly_mode_kept():
        return getattr(importlib.import_module(modules[name]), name)
