"""``recbole-genrec check-data``: what data sets give away, one table each. Nothing is trained or written."""

from __future__ import annotations

import sys
from typing import Any

from recbole_genrec.data.leakage import find_leaks, render
from recbole_genrec.data.loading import Data
from recbole_genrec.errors import UserError
from recbole_genrec.suite import gather_settings, plan_runs

#: Needs nothing of a data set but its interactions.
_MODEL = "Pop"


def check_data(datasets: list[str], config_files: list[str], overrides: dict[str, Any]) -> int:
    """Load and split every data set as a run would and print its leak checks.

    Returns:
        0 whatever is found, or 2 if a data set could not be read or split (one line on stderr; the others go on).
    Raises:
        UserError: a mistake in the call, found before anything is read.
    """
    given = gather_settings([_MODEL], datasets, config_files, overrides)
    mistakes = 0
    for config in plan_runs([_MODEL], datasets, [], given):
        config["topk"] = [1]  # nothing is ranked: no catalogue is too small
        try:
            data = Data.load(config)
        except UserError as error:
            print("error:", *str(error).split(), file=sys.stderr)
            mistakes += 1
            continue
        report = find_leaks(data.dataset, data.parts)
        print(f"{config['dataset']}: {report['users']:,} users, {report['items']:,} items, "
              f"{report['interactions']:,} interactions\n\n{render(report)}\n\n"
              f"flagged: {', '.join(report['flagged']) or 'nothing'}\n", flush=True)
    return 2 if mistakes else 0
