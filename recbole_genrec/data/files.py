"""The atomic files of a data set before RecBole reads them: whether they are there and have the columns named."""

from __future__ import annotations

import os
from pathlib import Path

from recbole.utils import FeatureType

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.settings import property_file, property_names

_TYPES = tuple(kind.value for kind in FeatureType)


def atomic_file(config, suffix: str) -> Path:
    """Path of the data set's ``.inter``, ``.item`` ... file."""
    return Path(config["data_path"]) / f"{config['dataset']}.{suffix}"


def check_dataset(config) -> None:
    """Refuse a data set whose files or columns are not there, naming the command that makes them.

    Raises:
        UserError: missing ``.inter`` or ``.item`` file, or a column that the configuration names and no file has.
    """
    columns = {suffix: _columns(_existing_file(config, suffix), config["field_separator"])
               for suffix in ("inter", "item")}
    name, load = config["dataset"], config["load_col"] or {}
    if config["title_field"] is None:
        guess = next((column for column in columns["item"] if "title" in column or "name" in column), None)
        raise UserError(f"data set '{name}' names no title_field; its .item file has: {', '.join(columns['item'])}"
                        + (f"; did you mean --title_field={guess}?" if guess else ""))
    if config["TIME_FIELD"] != "position" and (atomic_file(config, "inter").parent / "conversion.json").is_file():
        raise UserError(f"TIME_FIELD={config['TIME_FIELD']}, but data set '{name}' was converted with the order of "
                        "each user's interactions, ties included, in its column 'position': set TIME_FIELD=position")
    needed = [(key, "inter", config[key])
              for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "true_time_field")]
    needed += [(key, "item", config[key]) for key in ("ITEM_ID_FIELD", "title_field")]
    needed += [(f"load_col.{suffix}", suffix, field) for suffix in columns for field in _listed(load.get(suffix))]
    for key, suffix, field in needed:
        if field is not None and field not in columns[suffix]:
            raise UserError(f"{key}='{field}' is not a column of {name}.{suffix}, which has: "
                            f"{', '.join(columns[suffix])}" + did_you_mean(str(field), columns[suffix]))
        if field is not None and load and load.get(suffix) != "*" and field not in _listed(load.get(suffix)):
            raise UserError(f"{key}='{field}' is not among the columns that load_col.{suffix} loads: "
                            f"{', '.join(map(str, _listed(load.get(suffix)))) or 'none'}")


def _existing_file(config, suffix: str) -> Path:
    path, name = atomic_file(config, suffix), config["dataset"]
    if os.path.isfile(path):
        return path
    if os.path.isfile(property_file("dataset", name)):
        about = config["about"] or {}
        ways = [" ".join(about[key].split()) for key in ("convert", "convert_sequences") if about.get(key)]
        hint = f"; make it with: {', or: '.join(ways)}" if ways else ""
    else:
        near = did_you_mean(name, property_names("dataset"))
        hint = near or "; known data sets: " + ", ".join(property_names("dataset"))
    raise UserError(f"data set '{name}' has no file {os.path.relpath(path)}{hint}")


def _columns(path: Path, separator: str) -> list[str]:
    """Names of an atomic file's columns, from its first line (``name:type`` each).

    Raises:
        UserError: a first line that RecBole cannot read.
    """
    shown = os.path.relpath(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        header = file.readline().rstrip("\r\n")
    if header.startswith("\ufeff"):
        raise UserError(f"{shown} begins with a byte order mark: save it as UTF-8 without one")
    names = []
    for column in header.split(separator):
        name, _, kind = column.partition(":")
        if kind not in _TYPES:
            raise UserError(f"{shown}: its first line must name every column as name:type, with a type of "
                            f"{', '.join(_TYPES)}, not '{column}'" + did_you_mean(kind, _TYPES))
        if name in names:
            raise UserError(f"{shown} has two columns '{name}'")
        names.append(name)
    return names


def _listed(columns) -> list:
    return columns if isinstance(columns, list) else []
