"""``recbole-genrec run``, and ``run_benchmark.py``: train and test models on data sets."""

from __future__ import annotations

import argparse
import os
import sys

from recbole_genrec.commands.arguments import add_data_options, names_of, overrides_of, seeds_of
from recbole_genrec.running.runtime import training_process

_EXAMPLES = """examples:
  %(prog)s --model=GenRec --dataset=ml-100k
  %(prog)s --model=GenRec,SASRec,GRU4Rec,Pop --dataset=ml-100k,amazon-toys --seed=1,2,3
  %(prog)s --model=GenRec --dataset=amazon-toys --llm=./my-llama --layout=per_target --learning_rate=3e-4
  %(prog)s --model=GenRec --dataset=ml-100k --seed=1,2,3 --ablation=genrec

Any configuration key of RecBole, of the model or of this project is given as --key=value; ours are listed, with what
they mean, in properties/overall.yaml and properties/model/MODEL.yaml (beside the package where it is installed).
Where a variant of the ablation sets a key that is also given here, the variant wins.
A run that was done before is not trained again (--force does), one that was broken off goes on from its last checkpoint
(--resume=false begins anew).
Exit code: 0 done, 2 a mistake in the call (one line says which), 1 a run failed (its record says why),
130 interrupted, 143 terminated (SIGTERM); after the last two the same command goes on.
"""


def add(commands) -> None:
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
    run.add_argument("--force", nargs="?", const="true", help="train again what has been trained before")
    run.add_argument("--leave_busy", action="store_true", help="leave runs that another process is at to it, instead "
                                                               "of waiting for them")
    add_data_options(run)
    run.set_defaults(handler=_run, settings=[])


def _run(arguments: argparse.Namespace) -> int:
    with training_process():
        plan = planned(arguments)
        from recbole_genrec.suite import carry_out

        return carry_out(plan, arguments.leave_busy)


def planned(arguments: argparse.Namespace):
    """The plan of what was typed, checked. Raises UserError."""
    if arguments.force is not None:
        arguments.settings.append(f"--force={arguments.force}")
    overrides = overrides_of(arguments, "llm", "output_dir", "data_path")
    models, datasets = names_of(arguments.model, "--model"), names_of(arguments.dataset, "--dataset")
    from recbole_genrec.suite import plan_suite

    return plan_suite(models, datasets, seeds_of(arguments.seed), arguments.config_files.split(), overrides,
                      arguments.ablation)
