"""``recbole-genrec grid``: the runs of one call, carried out by several workers, here or on a Slurm cluster."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from recbole_genrec.commands import run
from recbole_genrec.commands.arguments import parse
from recbole_genrec.errors import UserError, first_sentence

_EXAMPLES = """examples:
  %(prog)s --workers=4 --model=GenRec,SASRec,GRU4Rec --dataset=ml-100k,amazon-toys --seed=1,2,3
  %(prog)s --workers=8 --executor=slurm --job_options=slurm.yaml --model=GenRec --dataset=amazon-toys --seed=1,2,3,4

Everything else is what `run` takes, and is checked before a job is sent. A worker takes the next run that is not done
and that no other is at; a worker that is ended and started again goes on where it was.
Exit code: that of `run`; 2 also for a mistake in the options above.
"""


def add(commands) -> None:
    grid = commands.add_parser("grid", help="spread the runs of one call over workers (needs submitit)",
                               allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
                               epilog=_EXAMPLES)
    grid.add_argument("--workers", type=int, default=2, help="how many (default %(default)s)")
    grid.add_argument("--executor", default="local", choices=("local", "slurm"), help="default %(default)s")
    grid.add_argument("--processes", type=int, default=1, help="processes that share each run (default %(default)s)")
    grid.add_argument("--job_options", default=None, help="YAML file of submitit's options of a job, for example "
                                                          "slurm_partition, gpus_per_node, timeout_min")
    grid.set_defaults(handler=_grid, settings=[])


@dataclass
class Worker:
    """One job: ``run`` with the arguments of all; submitit sends it again when the cluster took its machine back."""

    command: list[str]

    def __call__(self) -> int:
        self._process = subprocess.Popen(self.command)
        code = self._process.wait()
        return code if code >= 0 else 128 - code  # killed by a signal

    def checkpoint(self) -> Any:
        """Called when the cluster gives notice: the run saves its state and ends, and is sent again."""
        import submitit

        self._process.terminate()
        self._process.wait()
        return submitit.helpers.DelayedSubmission(Worker(self.command))


def _grid(arguments: argparse.Namespace) -> int:
    if min(arguments.workers, arguments.processes) < 1:
        raise UserError(f"--workers={arguments.workers} and --processes={arguments.processes} must be at least 1")
    try:
        import submitit
    except ImportError:
        raise UserError("grid needs submitit: pip install submitit") from None
    from recbole_genrec.settings import read_yaml

    options = {} if arguments.job_options is None else read_yaml(arguments.job_options)
    plan = run.planned(parse(["run", *arguments.settings], [run]))  # mistakes show before anything waits in a queue
    launcher = [] if arguments.processes == 1 else ["torch.distributed.run", "--standalone",
                                                    f"--nproc_per_node={arguments.processes}", "-m"]
    worker = Worker([sys.executable, "-m", *launcher, "recbole_genrec", "run", *arguments.settings, "--leave_busy"])
    if plan.runs[0][0]["force"]:
        raise UserError("force=true has each worker train every run again: leave it out, or remove the runs' folders")
    jobs: list[Any] = []
    try:
        executor = submitit.AutoExecutor(folder=str(plan.output_dir / "jobs"), cluster=arguments.executor)
        executor.update_parameters(**{"timeout_min": 24 * 60, "name": "recbole-genrec", **options})
        for _ in range(arguments.workers):
            jobs.append(executor.submit(worker))
    except (TypeError, ValueError, NameError, RuntimeError) as error:  # what submitit says of options and of clusters
        for job in jobs:
            job.cancel()
        raise UserError(f"--executor={arguments.executor}, --job_options={arguments.job_options}: "
                        f"{first_sentence(error)}") from None
    print(f"{len(plan.runs)} runs, {len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}")
    codes = [_code(job) for job in jobs]
    print(f"records: {plan.output_dir / 'runs'}   leaderboard: {plan.output_dir / 'leaderboard.csv'}   "
          f"logs: {plan.output_dir / 'jobs'}")
    if left := _left(plan):
        print(f"{len(left)} of {len(plan.runs)} runs are not done (first: {left[0]}): the same call goes on with them",
              file=sys.stderr)
    return max([*codes, 1 if left else 0])


def _left(plan) -> list[str]:
    """Runs of a plan that no record says are done."""
    from recbole_genrec.benchmark import config_hash
    from recbole_genrec.records import read_records

    done = {(record.get("config_hash"), record.get("variant")) for record in read_records(plan.output_dir)[0]
            if record.get("status") == "ok"}
    return [f"{config['model']} on {config['dataset']}, seed {config['seed']}" for config, labels in plan.runs
            if (config_hash(config), labels.get("variant")) not in done]


def _code(job) -> int:
    """Exit code of a job; 1 for one that ended without."""
    import submitit

    try:
        return job.result()
    except submitit.core.utils.UncompletedJobError as error:
        print(f"job {job.job_id} ended without a result: {first_sentence(error)}", file=sys.stderr)
        return 1
