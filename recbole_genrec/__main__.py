"""``python -m recbole_genrec``: the command line where no script is installed."""

import sys

from recbole_genrec.cli import main

if __name__ == "__main__":
    sys.exit(main())
