"""What a run reads besides its settings, as one hash: atomic files, backbone, wording, index of the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from recbole_genrec.settings import property_file, read_yaml

#: A file of more bytes is told by its size and its two ends: a backbone's weights would take minutes.
_LARGE = 1 << 26
_END = 1 << 20


def inputs_fingerprint(config) -> str:
    """Hash of every file that bears on a run and that no setting spells out.

    All files ``<data_path>/<dataset>.*`` (each column, whoever reads it); the folders or files that ``llm``,
    ``item_reader``, ``semantic_model`` and ``prompt`` name, or this project's YAML of that name, with the words of
    ``domains.yaml``; the module of an ``item_index`` of the user's own. A model of the hub is its name: its files may
    not be here yet.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_inputs(config)):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
        _read_into(digest, path)
    return digest.hexdigest()[:16]


def _inputs(config) -> Iterator[tuple[str, Path]]:
    yield from (("data/" + path.name, path) for path in Path(config["data_path"]).glob(f"{config['dataset']}.*")
                if path.is_file())
    for key, kind in (("llm", "backbone"), ("item_reader", "backbone"), ("semantic_model", None), ("prompt", "prompt")):
        if not isinstance(name := config[key], str):
            continue
        path = Path(os.path.expanduser(name))
        if kind and "/" not in name and (ours := property_file(kind, name)).is_file():
            yield key, ours
            folder = Path(os.path.expanduser(str(read_yaml(ours).get(key, ""))))  # a short name for a folder
            if folder.name and folder.is_dir():
                yield from _files_in(folder, key)
        elif path.is_dir():
            yield from _files_in(path, key)
        elif path.is_file():
            yield key, path
    if config["prompt"]:
        yield "domains", property_file("", "domains")
    if isinstance(index := config["item_index"], str) and "." in index:
        found = importlib.util.find_spec(index)
        if found is not None and found.origin and os.path.isfile(found.origin):
            yield "item_index", Path(found.origin)


def _files_in(folder: Path, key: str) -> Iterator[tuple[str, Path]]:
    return ((f"{key}/{file.relative_to(folder)}", file) for file in folder.rglob("*") if file.is_file())


def _read_into(digest, path: Path) -> None:
    with open(path, "rb") as file:
        if path.stat().st_size <= _LARGE:
            digest.update(file.read())
        else:
            digest.update(file.read(_END))
            file.seek(-_END, os.SEEK_END)
            digest.update(file.read(_END))
