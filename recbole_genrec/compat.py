"""RecBole 1.2.1 on today's libraries: every repair in this one module, each with its reason.

What is *not* here on purpose: ``recbole.quick_start`` and ``recbole.trainer.hyper_tuning`` need ray 2.6.3,
``pkg_resources`` and ``np.bool8``; we never import the former, and the latter only imports ray when it runs.
"""

from __future__ import annotations

import contextlib
import types

import numpy as np
import torch


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


def repair() -> None:
    """Make RecBole's ``Config`` run on this numpy. Safe to call more than once."""
    restore_numpy_aliases()
    from recbole.config import Config

    Config.compatibility_settings = lambda self: restore_numpy_aliases()


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
