"""``recbole-genrec audit``: whether the rows of a table can be true."""

from __future__ import annotations

import argparse
import os

from tabulate import tabulate

from recbole_genrec.errors import UserError

_EXAMPLES = """examples:
  %(prog)s table.csv
  %(prog)s results/leaderboard.csv
  %(prog)s --published

With one target per user, ndcg@k and hit@k bound each other; a row that no distribution of ranks can give is impossible.
Columns are called hit@K, HR@K, H@K or recall@K, and ndcg@K or N@K; others are not read. A value may be off by half a
unit in its last place. If a value is above 1, the whole table is read as percent.
Exit code: 0 all rows are possible, 1 a row is not, 2 a mistake (one line says which).
"""


def add(commands) -> None:
    audit = commands.add_parser("audit", help="tell whether the rows of a table can be true", allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EXAMPLES,
                                description="Arithmetic of hit@k and ndcg@k, row by row.")
    audit.add_argument("table", metavar="TABLE.csv", nargs="?", help="a CSV file with a header")
    audit.add_argument("--published", action="store_true", help="the published rows in properties/experiment")
    audit.set_defaults(handler=_audit)


def _audit(arguments: argparse.Namespace) -> int:
    """Print a line a row of a CSV file, or of the published tables; 1 if a row is impossible, else 0."""
    if (arguments.table is None) != arguments.published:
        raise UserError("recbole-genrec audit needs a TABLE.csv or --published, one of the two")
    from recbole_genrec.evaluation.audit import audit_table, published

    if arguments.published:
        table = published()
        print(tabulate(table[["source", "dataset", "model", "verdict", "broken"]].values.tolist(),
                       ["source", "data set", "model", "verdict", "bound that it breaks"]))
    else:
        table = audit_table(os.path.expanduser(arguments.table))
        for row in table.to_dict("records"):
            print(f"{row['verdict']}: {row['row']}" + (f": {row['broken']}" if row["broken"] else ""))
    impossible = int((table["verdict"] != "ok").sum())
    print(f"{impossible} of {len(table)} rows are impossible with one target per user")
    return 1 if impossible else 0
