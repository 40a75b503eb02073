"""A trained model's weights on disk: safetensors only, whoever's model it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

_FILE = "model.safetensors"


def save_weights(model, folder: Path) -> None:
    """Write the weights into a folder that is not there yet: as the model itself does it, or whole (RecBole's)."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        folder.mkdir(parents=True)
        save_model(model, str(folder / _FILE))


def put_in_place(fresh: Path, folder: Path) -> None:
    """Rename a complete folder of weights to ``folder``, which may hold others: they step aside until that is done."""
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():  # a folder cannot be renamed over one that has content
        folder.rename(aside)
    fresh.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Undo what a kill within :func:`put_in_place` left half done."""
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
    elif _aside(folder).exists():
        _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def weights_are_whole(folder: Path) -> bool:
    """Whether there are weights in the folder, none of them torn."""
    files = list(folder.glob("*.safetensors"))
    try:
        for file in files:
            with safe_open(file, framework="pt"):
                pass
    except (OSError, SafetensorError):
        return False
    return bool(files)


def load_weights(model, folder: Path) -> None:
    """Read back what :func:`save_weights` wrote (RecBole would unpickle its own checkpoints)."""
    if hasattr(model, "load_pretrained"):
        model.load_pretrained(folder)
    else:
        load_model(model, str(folder / _FILE), device=str(model.device))
