"""The commands of ``recbole-genrec``, one module each: what is typed, and what is called with it.

A module's ``add(commands)`` makes the parser and sets its ``handler``, which gets the parsed arguments and returns the
exit code; one that takes settings (``--key=value``) finds what is left of the line in ``arguments.settings``. Nothing
heavy is imported before a handler runs, so that ``--help`` and mistakes are quick.
"""

from recbole_genrec.commands import (ablation, audit, check_data, compare, demo, grid, recommend, report, reproduce,
                                     run, tune)

COMMANDS = (run, tune, reproduce, grid, ablation, compare, audit, report, recommend, demo, check_data)
