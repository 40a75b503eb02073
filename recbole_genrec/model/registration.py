"""How RecBole finds our models and the settings of their YAML files, by its own ``get_model`` and ``Config``."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys

from recbole_genrec.model.registry import OURS, RECBOLE, models_of
from recbole_genrec.settings import our_properties


class _AliasFinder(importlib.abc.MetaPathFinder):
    """Lets ``recbole.model.sequential_recommender.<ours>`` be the very module object of our package.

    RecBole's ``get_model`` looks for a module of that name and has no registry. A finder serves every caller,
    also one that imported ``get_model`` before us, and imports our model only when it is asked for.
    A RecBole model of the same name (``pop`` is a *general* recommender there) is never hidden.
    """

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(f"{RECBOLE}."):
            return None
        name = fullname[len(RECBOLE) + 1:]
        if f"{OURS}.{name}" not in models_of(OURS).values():
            return None
        if importlib.util.find_spec("recbole.model.general_recommender." + name) is not None:
            return None
        return importlib.machinery.ModuleSpec(fullname, _AliasLoader(f"{OURS}.{name}"))


class _AliasLoader(importlib.abc.Loader):
    def __init__(self, real_name: str):
        self.real_name = real_name

    def create_module(self, spec):
        module = importlib.import_module(self.real_name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self._spec  # the import system has just written the alias's spec over it


def register() -> None:
    """Let RecBole find them. Safe to call more than once."""
    if any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        return
    sys.meta_path.append(_AliasFinder())
    from recbole.config import Config

    load_internal = Config._load_internal_config_dict

    def load_with_our_properties(self, model, model_class, dataset):
        load_internal(self, model, model_class, dataset)
        if model_class.__module__.startswith(f"{OURS}."):
            self.internal_config_dict.update(our_properties(model, dataset))

    Config._load_internal_config_dict = load_with_our_properties
