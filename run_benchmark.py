#!/usr/bin/env python
"""Run models on data sets from a source checkout; after installation ``recbole-genrec run`` does the same."""

import sys

from recbole_genrec.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
