"""The shipped YAML files: where they are, how they are read and how they lie over each other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from recbole_genrec.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent

#: Settings that came when there were results already, each with the value under which a run is one of before.
LATER = {"item_prior": 0.0, "item_reader": None, "label_smoothing": 0.0, "ema_decay": 0.0,
         "members": 1}

#: Keys that say where and how a run is carried out, not what is measured: runs that differ in no other are the same.
CARRYING_OUT = {"output_dir", "data_path", "checkpoint_dir", "gpu_id", "show_progress", "state", "device", "worker",
                "log_wandb", "wandb_project", "save_dataset", "save_dataloaders", "local_rank", "single_spec", "about",
                "published", "llm_cache", "api_key_env", "concurrency", "requests_per_minute", "request_timeout",
                "request_retries", "resume", "force", "checkpoint_minutes", "fsdp", "settings_label"}


def properties_dir() -> Path:
    """Folder with ``overall.yaml`` and the folders ``model/``, ``dataset/``, ``backbone/``, ``ablation/`` ..."""
    installed = _PACKAGE / "properties"
    return installed if installed.is_dir() else _PACKAGE.parent / "properties"


def property_file(kind: str, name: str) -> Path:
    """Path of ``properties/<kind>/<name>.yaml`` (which may not exist)."""
    return properties_dir() / kind / f"{name}.yaml"


def property_names(kind: str) -> list[str]:
    """Names for which ``properties/<kind>/<name>.yaml`` exists, sorted."""
    return sorted(path.stem for path in (properties_dir() / kind).glob("*.yaml"))


def named_file(kind: str, name: str) -> Path:
    """The YAML file that a name stands for: one of ``properties/<kind>/``, or, with its ending, one of the user's own.

    Raises:
        UserError: no such name; the nearest is given.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name).expanduser()
    known = property_names(kind)
    if name not in known:
        raise UserError(f"unknown {kind} '{name}'" + (did_you_mean(name, known) or "; known: " + ", ".join(known)
                                                     + "; or give a YAML file"))
    return property_file(kind, name)


def check_name(dataset: str) -> None:
    """Refuse a name of a data set that would be a path: files are read and written by it."""
    if not re.fullmatch(r"[\w][\w.+-]{0,99}", dataset):
        raise UserError(f"'{dataset}' is no data set name: letters, digits, '.', '_', '+' and '-' only, up to 100")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``3e-4`` is a number (YAML 1.1 makes it a string)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


#: For :func:`read_yaml`, no object is ever made by any of them: every value a text as it stands there (0.0190), and
#: what ``yaml.safe_dump`` wrote, by the C library where there is one (ten times as fast).
TEXTS, DUMPED = yaml.BaseLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | Path, loader: type = _Loader) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if it is missing, unreadable or no mapping."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold 'key: value' lines, not a {type(content).__name__}")
    return content


def parse_value(text: str) -> Any:
    """A command-line value as YAML reads it: ``3`` -> 3, ``[5, 10]`` -> list, ``null`` -> None, else the text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: '2024-13-45' looks like a date to YAML
        return text


def our_properties(model: str, dataset: str) -> dict[str, Any]:
    """What our YAML files say for this pair: overall, then model, then data set."""
    merged: dict[str, Any] = {}
    for path in (property_file("", "overall"), property_file("model", model), property_file("dataset", dataset)):
        if os.path.isfile(path):
            merged = merge(merged, read_yaml(path))
    return merged


#: Shares of a whole: given anew, they stand for themselves.
_REPLACED = ("mask_levels", "task_families")


def merge(base: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``new`` over ``base``; where both hold a dictionary, key by key (one level: ``split`` is replaced whole)."""
    merged = dict(base)
    for key, value in new.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict) and key not in _REPLACED
        merged[key] = {**old, **value} if both else value
    return merged
