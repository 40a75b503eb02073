"""Command line: ``run_benchmark.py``, and ``recbole-genrec`` ``run``, ``check-data``, ``ablation``, ``compare``,
``audit`` and ``report``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from recbole_genrec.errors import UserError
from recbole_genrec.version import __version__

_EXAMPLES = """examples:
  %(prog)s --model=GenRec --dataset=ml-100k
  %(prog)s --model=GenRec,SASRec,GRU4Rec,Pop --dataset=ml-100k,amazon-toys --seed=1,2,3
  %(prog)s --model=GenRec --dataset=amazon-toys --llm=./my-llama --layout=per_target --learning_rate=3e-4
  %(prog)s --model=GenRec --dataset=ml-100k --seed=1,2,3 --ablation=genrec

Any configuration key of RecBole, of the model or of this project is given as --key=value.
Where a variant of the ablation sets a key that is also given here, the variant wins.
Exit code: 0 done, 2 a mistake in the call (one line says which), 1 a run failed (its record says why),
130 interrupted.
"""

_CHECK_EXAMPLES = """examples:
  %(prog)s --dataset=ml-100k
  %(prog)s --dataset=amazon-toys,amazon-beauty --data_path=./dataset
  %(prog)s --dataset=mine --config_files=mine.yaml --repeat_consumption=true

A line of the table is "ok", "LEAK" (the data give test items away, or a test means little) or "note" (worth knowing).
Any configuration key of RecBole or of this project is given as --key=value.
Exit code: 0 done, whatever was found; 2 a mistake in the call (one line says which).
"""

_AUDIT_EXAMPLES = """examples:
  %(prog)s table.csv
  %(prog)s results/leaderboard.csv
  %(prog)s --published

With one target per user, ndcg@k and hit@k bound each other; a row that no distribution of ranks can give is impossible.
Columns are called hit@K, HR@K, H@K or recall@K, and ndcg@K or N@K; others are not read. A value may be off by half a
unit in its last place. If a value is above 1, the whole table is read as percent.
Exit code: 0 all rows are possible, 1 a row is not, 2 a mistake (one line says which).
"""

_REPORT_EXAMPLES = """examples:
  %(prog)s results
  %(prog)s results --output report.html
  %(prog)s results/leaderboard.csv --output table.tex

A table is of one data set, split and masking policy; an ablation has its own. The page is one file and loads nothing.
Exit code: 0 done, 2 a mistake in the call (one line says which).
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code; prints one line on stderr for a user's mistake."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _main(argv)
    except UserError as error:
        print("error:", *str(error).split(), file=sys.stderr)  # one line, whatever was typed
        return 2
    except OSError as error:  # a disk that is full, a folder that is gone
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as our other mistakes are: one line, no usage."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _main(argv: list[str]) -> int:
    parser = _Parser(prog="recbole-genrec", description="Generative recommenders beside the classical "
                                     "sequential baselines: same splits, same evaluator.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train and test models on data sets", allow_abbrev=False,
                              prog="run_benchmark.py" if os.path.basename(sys.argv[0]) == "run_benchmark.py"
                              else "recbole-genrec run",
                              formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EXAMPLES)
    run.add_argument("--model", required=True, help="one or more models, separated by commas")
    run.add_argument("--dataset", required=True, help="one or more data sets, separated by commas")
    run.add_argument("--seed", default=None, help="one or more seeds, separated by commas (default 2023)")
    run.add_argument("--llm", default=None, help="backbone of generative models: hub id, folder, or a name in "
                                                 "properties/backbone")
    run.add_argument("--output_dir", default=None, help="where records and leaderboard.csv go (default results)")
    run.add_argument("--ablation", default=None, help="run the variants that a YAML file compares, and compare them: "
                                                      "a name in properties/ablation, or a file; a variant's settings "
                                                      "win over those given here")
    ablation = commands.add_parser("ablation", help="make the tables of an ablation again, from its records",
                                   allow_abbrev=False, description="The tables and plots of an ablation, from the "
                                   "records of its runs. Nothing is trained.")
    ablation.add_argument("name", metavar="NAME", help="a name in properties/ablation, or a YAML file")
    ablation.add_argument("--output_dir", default="results", help="where the records are (default results)")
    compare = commands.add_parser("compare", help="compare models with the best baseline, from records",
                                  allow_abbrev=False, description="Means with confidence intervals, and paired tests "
                                  "of each model against the best baseline. Nothing is trained.")
    compare.add_argument("--output_dir", default="results", help="where the records are, and where significance.csv "
                                                                 "goes (default results)")
    compare.add_argument("--dataset", default=None, help="of this data set only")
    compare.add_argument("--metric", default="ndcg@10", help="hit@K or ndcg@K (default ndcg@10)")
    audit = commands.add_parser("audit", help="tell whether the rows of a table can be true", allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_AUDIT_EXAMPLES,
                                description="Arithmetic of hit@k and ndcg@k, row by row.")
    audit.add_argument("table", metavar="TABLE.csv", nargs="?", help="a CSV file with a header")
    audit.add_argument("--published", action="store_true", help="the published rows in properties/experiment")
    report = commands.add_parser("report", help="show a leaderboard as one HTML page, or as Markdown or LaTeX tables",
                                 allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
                                 epilog=_REPORT_EXAMPLES, description="A leaderboard to look at, to send and to print. "
                                 "Nothing is trained.")
    report.add_argument("leaderboard", metavar="LEADERBOARD", help="a leaderboard.csv, or an output folder; records "
                                                                   "under runs/ beside it give the details")
    report.add_argument("--output", default=None, help="the file to write (default report.html, .md or .tex)")
    report.add_argument("--format", default=None, help="html, markdown or latex (default: by the suffix of --output)")
    check = commands.add_parser("check-data", help="tell what data sets give away", allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_CHECK_EXAMPLES,
                                description="Leak checks of data sets and their splits, one table each.")
    check.add_argument("--dataset", required=True, help="one or more data sets, separated by commas")
    for command in (run, check):
        command.add_argument("--config_files", default="", help="YAML files, separated by blanks; later ones win")
        command.add_argument("--data_path", default=None,
                             help="folder that holds <dataset>/<dataset>.inter (default dataset)")
    arguments, rest = parser.parse_known_args(argv)
    derived = {"ablation": _ablation, "compare": _compare, "audit": _audit, "report": _report}
    if arguments.command in derived:  # from what is there; no settings are read
        if rest:
            raise UserError(f"cannot understand '{rest[0]}'; see recbole-genrec {arguments.command} --help")
        return derived[arguments.command](arguments)
    from recbole_genrec.runtime import keep_freed_memory, quiet

    overrides = _overrides(rest)
    for name in ("llm", "output_dir", "data_path"):
        if (value := getattr(arguments, name, None)) is not None:
            overrides[name] = os.path.expanduser(value)
    quiet()
    keep_freed_memory()
    datasets, config_files = _names(arguments.dataset, "--dataset"), arguments.config_files.split()
    if arguments.command == "check-data":
        from recbole_genrec.check import check_data

        return check_data(datasets, config_files, overrides)
    from recbole_genrec.suite import run_suite

    return run_suite(_names(arguments.model, "--model"), datasets, _seeds(arguments.seed), config_files, overrides,
                     arguments.ablation)


def _ablation(arguments: argparse.Namespace) -> int:
    from recbole_genrec.ablation import read_ablation

    ablation = read_ablation(arguments.name)
    from recbole_genrec.evaluation.ablation import report

    report(ablation, Path(arguments.output_dir).expanduser())
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from recbole_genrec.evidence import compare_models

    return compare_models(Path(arguments.output_dir).expanduser(), arguments.dataset, arguments.metric)


def _audit(arguments: argparse.Namespace) -> int:
    from recbole_genrec.evidence import audit

    if (arguments.table is None) != arguments.published:
        raise UserError("recbole-genrec audit needs a TABLE.csv or --published, one of the two")
    return audit(None if arguments.published else os.path.expanduser(arguments.table))


def _report(arguments: argparse.Namespace) -> int:
    from recbole_genrec.report import write_report

    output = None if arguments.output is None else Path(arguments.output).expanduser()
    return write_report(Path(arguments.leaderboard).expanduser(), output, arguments.format)


def _overrides(rest: list[str]) -> dict[str, Any]:
    from recbole_genrec.settings import parse_value
    from recbole_genrec.validation import KINDS

    overrides = {}
    for argument in rest:
        if not argument.startswith("--") or "=" not in argument:
            raise UserError(f"cannot understand '{argument}': settings are given as --key=value")
        key, value = argument[2:].split("=", 1)
        overrides[key] = value if KINDS.get(key) is str and value.lower() not in ("null", "~", "none") \
            else parse_value(value)
    return overrides


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{option} is empty")
    return names


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UserError(f"--seed={text} must be whole numbers, separated by commas") from None
