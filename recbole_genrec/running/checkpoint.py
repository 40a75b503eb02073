"""The state of a training run on disk: safetensors and JSON, each state whole or not there, the last two kept."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recbole_genrec.files import flush

_KEPT = 2
_STATE = "state.json"

log = logging.getLogger("recbole_genrec")


class Checkpoints:
    """Training states in a folder, one subfolder each, named by a number that grows.

    A state is written beside the others and renamed when all of it is on the disk: whoever is killed at any moment
    leaves the states that were there before.

    Args:
        folder: where they are; made at the first state.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def write(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Keep a state: groups of tensors, a file each, and what JSON can say of the rest.

        Raises:
            OSError, SafetensorError: it could not be written; what was begun is gone, the older states are there.
        """
        number = max(self._numbers(), default=0) + 1
        fresh = self.folder / f"{number}.new"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            for name, group in tensors.items():
                save_file({key: value.detach().contiguous() for key, value in group.items()},
                          fresh / f"{name}.safetensors")
            (fresh / _STATE).write_text(json.dumps({**state, "files": sorted(tensors)}), encoding="utf-8")
            for file in (*fresh.iterdir(), fresh):
                flush(file)
            fresh.rename(self.folder / str(number))
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        flush(self.folder)
        for old in sorted(self._numbers())[:-_KEPT]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    def read(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The newest state that can be read; None if there is none."""
        for number in sorted(self._numbers(), reverse=True):
            folder = self.folder / str(number)
            try:
                state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
                return {name: load_file(folder / f"{name}.safetensors")
                        for name in state["files"]}, state
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("warning: checkpoint %s cannot be read (%s) and is passed over", folder, error)
                shutil.rmtree(folder, ignore_errors=True)  # or it would be one of the two that are kept
        return None

    def clear(self) -> None:
        """Remove all states: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()]


# ---------------------------------------------------------------------------------------------- what is in a state

def model_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes in a model: the weights that train, and the buffers that are saved with them."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    saved = model.state_dict(keep_vars=True)
    return {**weights, **{name: buffer for name, buffer in model.named_buffers() if name in saved}}


@torch.no_grad()
def set_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what :func:`model_state` took. Raises KeyError or ValueError where the model is another one."""
    for name, tensor in model_state(model).items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} has the shape {list(state[name].shape)}, not {list(tensor.shape)}")
        tensor.copy_(state[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors, and the rest of it as plain values."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for number, values in state["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{number}.{key}"] = value
    return tensors, {"plain": plain, "groups": state["param_groups"]}


def set_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what :func:`optimizer_state` took."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest["plain"]}.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Where the generators of Python, numpy and torch (the GPU's too) stand."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state()
    tensors = {"python": torch.tensor(words, dtype=torch.int64), "numpy": torch.from_numpy(keys.astype(np.int64)),
               "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {"python": [version, gauss], "numpy": [kind, place, has_gauss, cached]}


def set_random_state(tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what :func:`random_state` took."""
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, place, has_gauss, cached = rest["numpy"]
    np.random.set_state((kind, tensors["numpy"].cpu().numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(tensors["torch"].cpu())
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"].cpu())
