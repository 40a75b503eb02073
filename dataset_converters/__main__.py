"""Command line: ``python -m dataset_converters SOURCE --output DIR --name NAME ...``."""

from __future__ import annotations

import sys
from typing import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """:func:`cli.run`; imported here, so that Ctrl-C is met while the libraries load too."""
    try:
        from . import cli

        return cli.run(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
