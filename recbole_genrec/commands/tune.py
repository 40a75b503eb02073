"""``recbole-genrec tune``: search settings by validation, with as many trials for every model."""

from __future__ import annotations

import argparse

from recbole_genrec.commands.arguments import add_data_options, names_of, overrides_of
from recbole_genrec.running.runtime import training_process

_EXAMPLES = """examples:
  %(prog)s --model=SASRec,GenRec --dataset=ml-100k --trials=8 --max_train_minutes=5
  %(prog)s --model=GRU4Rec --dataset=amazon-toys --trials=12 --search=./mine.yaml
  recbole-genrec run --model=SASRec --dataset=ml-100k --config_files=results/tuning/SASRec-ml-100k.yaml --seed=1,2,3

Every model gets as many trials, each as long as --max_train_minutes lets it. A trial is trained and validated, never
tested. What is given as --key=value is given to every trial and not searched. A search that was broken off goes on.
The file of the best settings has epochs in place of --max_train_minutes where epochs are the same training (not where a
schedule of learning rates or a stage of pre-training goes by them: such a model is better searched with --epochs).
Exit code: 0 done, 1 a trial failed or nothing was measured, 2 a mistake in the call (one line says which).
"""


def add(commands) -> None:
    tune = commands.add_parser("tune", help="search settings by validation, equally long for every model",
                               allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
                               epilog=_EXAMPLES)
    tune.add_argument("--model", required=True, help="one or more models, separated by commas")
    tune.add_argument("--dataset", required=True, help="one or more data sets, separated by commas")
    tune.add_argument("--trials", type=int, default=8, help="settings to try, the model's own included "
                                                            "(default %(default)s)")
    tune.add_argument("--search", default=None, help="which values: a name in properties/search, or a YAML file "
                                                     "(default: that of the model's name)")
    tune.add_argument("--output_dir", default="results", help="tables and settings go to its folder tuning "
                                                              "(default %(default)s)")
    add_data_options(tune)
    tune.set_defaults(handler=_tune, settings=[])


def _tune(arguments: argparse.Namespace) -> int:
    with training_process():
        overrides = overrides_of(arguments, "data_path")
        from recbole_genrec.tuning import carry_out, plan_searches

        searches = plan_searches(names_of(arguments.model, "--model"), names_of(arguments.dataset, "--dataset"),
                                 arguments.trials, arguments.config_files.split(), overrides, arguments.search)
        return carry_out(searches, arguments.output_dir)
