"""What the commands share: options, settings on the command line, lists of names."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

from recbole_genrec.errors import UserError
from recbole_genrec.version import __version__


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as our other mistakes are: one line, no usage."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def parse(argv: list[str], commands: Iterable) -> argparse.Namespace:
    """A command line, read by the modules of the commands that it may have.

    ``handler`` is what to call with it; a command that takes settings finds what is left of the line in ``settings``.

    Raises:
        UserError: it is none of ours.
    """
    parser = _Parser(prog="recbole-genrec", description="Generative recommenders beside the classical "
                                     "sequential baselines: same splits, same evaluator.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    found = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        command.add(found)
    typed, rest = parser.parse_known_args(argv)
    if hasattr(typed, "settings"):
        typed.settings = rest
    elif rest:
        raise UserError(f"cannot understand '{rest[0]}'; see recbole-genrec {typed.command} --help")
    return typed


def add_data_options(command: argparse.ArgumentParser) -> None:
    """Where settings and data come from."""
    command.add_argument("--config_files", default="", help="YAML files, separated by blanks; later ones win")
    add_data_path(command)


def add_data_path(command: argparse.ArgumentParser) -> None:
    """Where data come from."""
    command.add_argument("--data_path", default=None,
                         help="folder that holds <dataset>/<dataset>.inter (default dataset)")


def overrides_of(arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    """Settings given as ``--key=value``, and those of the options that are settings too.

    Raises:
        UserError: something that is no setting.
    """
    from recbole_genrec.settings import parse_value
    from recbole_genrec.validation import KINDS

    overrides = {}
    for argument in arguments.settings:
        if not argument.startswith("--") or "=" not in argument:
            raise UserError(f"cannot understand '{argument}': settings are given as --key=value")
        key, value = argument[2:].split("=", 1)
        if KINDS.get(key) is str:
            overrides[key] = None if value.lower() in ("null", "~", "none") else value
        else:
            overrides[key] = parse_value(value)
    for name in options:
        if (value := getattr(arguments, name)) is not None:
            overrides[name] = os.path.expanduser(value)
    return overrides


def names_of(text: str, option: str) -> list[str]:
    """Names between commas. Raises UserError if there are none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{option} is empty")
    return names


def seeds_of(text: str | None) -> list[int]:
    """Whole numbers between commas; none for None. Raises UserError for anything else."""
    if text is None:
        return []
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UserError(f"--seed={text} must be whole numbers, separated by commas") from None
