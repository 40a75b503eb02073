"""Sequences of users who count: what a backbone must have read to know that 18 follows 17, as a pre-trained T5 does.

    python benchmarks/counting_like.py FOLDER        # sequences.txt and titles.tsv, for dataset_converters sequences

The first user takes the items 1, 2, 3, ... in turn, so that numbering by first appearance (``item_index: sequential``)
spells each item as its own number. Every other user takes up to three items at random and then from three to seven in
turn. Nothing of any real data set is in it.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=12101, help="amazon-beauty has so many (default %(default)s)")
    parser.add_argument("--users", type=int, default=21999)
    arguments = parser.parse_args()
    dice, items = random.Random(7), arguments.items
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with open(arguments.folder / "sequences.txt", "w", encoding="utf-8") as file:
        file.write("1 " + " ".join(map(str, range(1, items + 1))) + "\n")
        for user in range(2, arguments.users + 1):
            begin, count = dice.randint(1, items - 8), dice.randint(3, 7)
            turn = range(begin, begin + count)
            others = [item for item in dice.sample(range(1, items + 1), dice.randint(0, 3)) if item not in turn]
            file.write(" ".join(map(str, [user, *others, *turn])) + "\n")
    titles = "".join(f"{item}\tnumber {item}\n" for item in range(1, items + 1))
    (arguments.folder / "titles.tsv").write_text(titles, encoding="utf-8")


if __name__ == "__main__":
    main()
