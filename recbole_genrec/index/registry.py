"""Which indexes exist, by name: the modules beside this one, those that were registered, those of a dotted path."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.material import Interactions, Material

Build = Callable[[Material], ItemIndex]

#: What an index may declare to read of users' sequences, and where it is found.
_SOURCES = {"training": Interactions.of_training, "everything": Interactions.of_everything}
_registered: dict[str, Build] = {}


def reads(what: str) -> Callable[[Build], Build]:
    """Declares what a ``build`` reads of users' sequences; without it, none of them is given to it.

    Args:
        what: ``training``, or ``everything``: the targets of validation and test too. Such an index is leaky, and each
            of its results says so.
    """
    if what not in _SOURCES:
        raise ValueError(f"an index reads {' or '.join(_SOURCES)}, not {what!r}")

    def declared(build: Build) -> Build:
        build.reads = what
        return build

    return declared


def register(name: str, build: Build) -> None:
    """Make an index of one's own known by a name, for ``item_index=``.

    Args:
        name: letters, digits and ``_``.
        build: from a :class:`Material` to an :class:`ItemIndex`.
    Raises:
        ValueError: no such name, or one that is taken.
    """
    if not name.isidentifier() or name in _shipped() or _registered.get(name, build) is not build:
        raise ValueError(f"an index cannot be called {name!r}: it is no plain name, or it is taken")
    _registered[name] = build


@lru_cache(maxsize=None)
def _shipped() -> tuple[str, ...]:
    """Modules of this folder with a ``build``, read from the sources without importing them."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py")
                        if re.search(r"^def build\(", path.read_text(encoding="utf-8"), re.MULTILINE)))


def find_index(name: str) -> Build:
    """The ``build`` of an index.

    A name without a dot is looked up and never imported from elsewhere. One with a dot is the module of an index of
    the user's own (``mypackage.my_index``), which is imported: its code is installed on this machine already, and a
    dotted path says in so many words whose it is.

    Raises:
        UserError: no such index; the nearest name is given.
    """
    names = (*_shipped(), *_registered)
    if name in names:
        return _registered[name] if name in _registered else \
            importlib.import_module(f"recbole_genrec.index.{name}").build
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        raise UserError(f"item_index={name!r} is not one of {', '.join(names)}"
                        + (did_you_mean(str(name), names) or ", nor the dotted path of a module"))
    try:
        module = importlib.import_module(name)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"item_index={name} cannot be imported: {type(error).__name__}: {error}"
                        + did_you_mean(name, names)) from None
    if not callable(getattr(module, "build", None)):
        raise UserError(f"item_index={name}: the module has no function build(material)")
    return module.build


def gather(name: str, material: Material, part) -> Material:
    """``material`` with what the index reads of users' sequences, and no more than that.

    Args:
        name: of the index.
        part: the training part of a data set.
    """
    given = {source: None for source in _SOURCES}
    if (what := getattr(find_index(name), "reads", None)) is not None:
        given[what] = _SOURCES[what](part)
    return replace(material, **given)


def build_index(name: str, material: Material) -> ItemIndex:
    """The index called ``name``, or of that dotted path. Its report says whether it is leaky.

    Raises:
        UserError: no such index, or one that reads what there is not; a spelling is missing.
    """
    build = find_index(name)
    what = getattr(build, "reads", None)
    given = {source: getattr(material, source) if source == what else None for source in _SOURCES}
    if what is not None and given[what] is None:
        raise UserError(f"item_index={name} is made from {what} interactions, and none are given: it needs the "
                        "training part of a data set")
    index = build(replace(material, **given))
    expected = len(material.catalogue.titles)
    if not isinstance(index, ItemIndex) or index.n_items != expected or len(index.texts) != expected:
        raise UserError(f"item_index={name} does not spell the {expected - 1} items of the catalogue")
    index.report = {**index.report, "item_index": name, "leaky": what == "everything"}
    return index
