"""RecBole 1.2.1 on today's libraries: every repair in this one module, each with its reason.

What is *not* here on purpose: ``recbole.quick_start`` and ``recbole.trainer.hyper_tuning`` need ray 2.6.3,
``pkg_resources`` and ``np.bool8``; we never import the former, and the latter only imports ray when it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import torch

from recbole_genrec.settings import our_properties

_RECBOLE_MODELS = "recbole.model.sequential_recommender."
_OUR_MODELS = "recbole_genrec.model.sequential_recommender."


def restore_numpy_aliases() -> None:
    """Give back the ``np.float``-style names that RecBole still uses, where this numpy lacks them.

    RecBole's own ``Config.compatibility_settings`` does this from ``np.float_`` and friends, which numpy 2
    removed, so it raises ``AttributeError`` before anything is read. ``Dataset._fill_nan`` (``np.float``) and
    several models still need the aliases. The Python builtins are what those names meant in numpy 1.
    """
    builtin = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str,
               "long": int, "unicode": str}
    for name, kind in builtin.items():
        # ``vars`` and not ``hasattr``: numpy answers some of these names with a warning or an error.
        if name not in vars(np):
            setattr(np, name, kind)


class _AliasFinder(importlib.abc.MetaPathFinder):
    """Lets ``recbole.model.sequential_recommender.<ours>`` be the very module object of our package.

    RecBole's ``get_model`` looks for a module of that name and has no registry. A finder serves every caller,
    also one that imported ``get_model`` before us, and imports our model only when it is asked for.
    A RecBole model of the same name (``pop`` is a *general* recommender there) is never hidden.
    """

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(_RECBOLE_MODELS):
            return None
        from recbole_genrec.model.registry import OURS, models_of

        name = fullname[len(_RECBOLE_MODELS):]
        if _OUR_MODELS + name not in models_of(OURS).values():
            return None
        if importlib.util.find_spec("recbole.model.general_recommender." + name) is not None:
            return None
        return importlib.machinery.ModuleSpec(fullname, _AliasLoader(_OUR_MODELS + name))


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
    """Make RecBole find our models and run on this numpy. Safe to call more than once."""
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.append(_AliasFinder())
    restore_numpy_aliases()
    from recbole.config import Config

    if getattr(Config, "_genrec_registered", False):
        return
    Config._genrec_registered = True
    Config.compatibility_settings = lambda self: restore_numpy_aliases()
    load_internal = Config._load_internal_config_dict

    def load_with_our_properties(self, model, model_class, dataset):
        load_internal(self, model, model_class, dataset)
        if model_class.__module__.startswith(_OUR_MODELS):
            self.internal_config_dict.update(our_properties(model, dataset))

    Config._load_internal_config_dict = load_with_our_properties


@contextlib.contextmanager
def anomaly_mode_kept():
    """Around an import of RecBole's models: torch's anomaly detection stays as it was.

    Importing any of them imports all, and one (SINE) turns it on for the whole process: every training step of every
    model would look for the operation that a NaN came from, and be slower for it.
    """
    before, checks = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(before, checks)


@contextlib.contextmanager
def no_tensorboard():
    """Within this block RecBole's trainer gets a writer that writes nothing.

    Its constructor opens ``log_tensorboard/`` in the working folder and cannot be told not to.
    """
    from recbole.trainer import trainer

    original = trainer.get_tensorboard
    silent = types.SimpleNamespace(add_scalar=lambda *a, **k: None, add_hparams=lambda *a, **k: None)
    trainer.get_tensorboard = lambda logger: silent
    try:
        yield
    finally:
        trainer.get_tensorboard = original


@contextlib.contextmanager
def atomic_files_read_by(read_csv):
    """Within this block RecBole's data set reads atomic files by ``read_csv``.

    It calls ``pd.read_csv`` in the middle of a long method, with the slow Python engine and default quoting.
    """
    from recbole.data.dataset import dataset

    original, dataset.pd = dataset.pd, types.SimpleNamespace(read_csv=read_csv)
    try:
        yield
    finally:
        dataset.pd = original
