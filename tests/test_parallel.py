"""Two processes (torchrun, gloo on the CPU) are one run: the same batches, lists, metrics and files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from data_helpers import random_interactions, records, wait_for, write_dataset

from recbole_genrec.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]
BENCHMARK = REPOSITORY / "run_benchmark.py"
SHORT = ["--gpu_id=", "--validity_users=0", "--epochs=3", "--eval_step=1", "--train_batch_size=33",
         "--eval_batch_size=16"]
#: Each process draws its own dropout: none, where the numbers shall be those of one.
SASREC = ["--model=SASRec", "--hidden_dropout_prob=0", "--attn_dropout_prob=0"]
#: In float64 throughout, where rounding cannot move a rank.
IN_DOUBLE = """
import sys, torch
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
from recbole_genrec.cli import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(101, 60, 6, 12))


def _command(script: Path, processes: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    return [sys.executable, *launcher, str(script)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def _run(script: Path, processes: int, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*_command(script, processes), *arguments], env=_environment(), text=True,
                          capture_output=True, timeout=600)


def _by_model(output: Path) -> dict[str, tuple[dict, pd.DataFrame]]:
    return {record["model"]: (record, pd.read_parquet(output / "runs" / record["run_id"] / "per_user.parquet"))
            for record in records(output)}


def test_two_processes_measure_what_one_does_to_the_last_digit(dataset, tmp_path):
    script = tmp_path / "in_double.py"
    script.write_text(IN_DOUBLE)
    arguments = ["--model=SASRec,GRU4Rec,Pop", "--dataset=tiny", f"--config_files={dataset}", *SHORT,
                 "--hidden_dropout_prob=0", "--attn_dropout_prob=0", "--dropout_prob=0"]
    done = _run(script, 2, *arguments, f"--output_dir={tmp_path / '2'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ndcg@10") == 1  # one of them speaks
    torch.set_default_dtype(torch.float64)
    try:
        assert main(["run", *arguments, f"--output_dir={tmp_path / '1'}"]) == 0
    finally:
        torch.set_default_dtype(torch.float32)
    one, two = _by_model(tmp_path / "1"), _by_model(tmp_path / "2")
    for model, (record, lists) in one.items():
        other, other_lists = two[model]
        assert {key: value for key, value in record.items() if "@" in key} == \
            {key: value for key, value in other.items() if "@" in key}, model
        assert record["valid"] == other["valid"]
        assert lists.to_json() == other_lists.to_json(), model
        losses = [[point["loss"] for point in found["curve"]] for found in (record, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12), model
        assert (record["machine"]["processes"], other["machine"]["processes"]) == (1, 2)


@pytest.mark.parametrize("models, epochs", [
    ("GenRec,RecSysLLM,GenRecT5,P5", 0), pytest.param("GenRecT5,RecSysLLM", 1, marks=pytest.mark.slow)])
def test_generative_models_list_and_learn_in_two_processes_as_in_one(models, epochs, dataset, tmp_path):
    """Lists of untrained models to the last digit; in training, what float32 lets be equal."""
    arguments = [f"--model={models}", f"--config_files={dataset}", "--dataset=tiny", *SHORT, "--precision=fp32",
                 "--target_stride=2", f"--epochs={epochs}"]
    done = _run(BENCHMARK, 2, *arguments, f"--output_dir={tmp_path / '2'}")
    assert done.returncode == 0, done.stderr
    assert main(["run", *arguments, f"--output_dir={tmp_path / '1'}"]) == 0
    one, two = _by_model(tmp_path / "1"), _by_model(tmp_path / "2")
    for model, (record, lists) in one.items():
        other, other_lists = two[model]
        losses = [[point["loss"] for point in found["curve"]] for found in (record, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5), model
        if not epochs:
            assert lists.to_json() == other_lists.to_json() and record["exact_share"] == other["exact_share"]
            assert record["ndcg@10"] == other["ndcg@10"]


@pytest.mark.slow
def test_layers_in_pieces_compute_what_whole_ones_do(dataset, tmp_path):
    arguments = [f"--config_files={dataset}", "--dataset=tiny", "--model=GenRec", *SHORT, "--precision=fp32"]
    assert main(["run", *arguments, f"--output_dir={tmp_path / 'scratch'}"]) == 0
    found, = records(tmp_path / "scratch")
    llm = shutil.copytree(tmp_path / "scratch" / "runs" / found["run_id"] / "model", tmp_path / "llama")
    for name in ("whole", "pieces"):
        done = _run(BENCHMARK, 2, *arguments, f"--llm={llm}", f"--fsdp={str(name == 'pieces').lower()}",
                    f"--output_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    (record, lists), (other, other_lists) = (_by_model(tmp_path / name)["GenRec"] for name in ("whole", "pieces"))
    assert [point["loss"] for point in record["curve"]] == [point["loss"] for point in other["curve"]]
    assert lists.to_json() == other_lists.to_json() and record["ndcg@10"] == other["ndcg@10"]
    assert record["trainable_parameters"] == other["trainable_parameters"] < record["total_parameters"] \
        == other["total_parameters"]


@pytest.mark.slow
def test_what_several_processes_were_doing_is_saved_when_they_are_told_to_end(dataset, tmp_path):
    arguments = [*SASREC, "--dataset=tiny", f"--config_files={dataset}", *SHORT, "--epochs=30",
                 "--stopping_step=100"]
    process = subprocess.Popen([*_command(BENCHMARK, 2), *arguments, f"--output_dir={tmp_path / 'stopped'}"],
                               env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("stopped/runs/*/checkpoints/*/state.json")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    record, = records(tmp_path / "stopped")
    assert record["status"] == "interrupted" and record["reason"] == "terminated (SIGTERM)"
    for name in ("stopped", "calm"):
        assert _run(BENCHMARK, 2, *arguments, f"--output_dir={tmp_path / name}").returncode == 0
    (record, lists), (calm, calm_lists) = (_by_model(tmp_path / name)["SASRec"] for name in ("stopped", "calm"))
    assert record["restarts"] == 1 and calm["restarts"] == 0
    assert [point["loss"] for point in record["curve"]] == [point["loss"] for point in calm["curve"]]
    assert lists.to_json() == calm_lists.to_json()


@pytest.mark.slow
def test_a_failure_in_one_process_ends_all_with_a_record(dataset, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(IN_DOUBLE.replace("from recbole_genrec.cli", """
import os
from recbole_genrec import trainer
def step(self, *rest):
    if os.environ["RANK"] == "1":
        raise MemoryError
trainer.GenRecTrainer._step = step
from recbole_genrec.cli"""))
    began = time.monotonic()
    done = _run(script, 2, *SASREC, "--dataset=tiny", f"--config_files={dataset}", *SHORT,
                f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 1 and time.monotonic() - began < 120
    record, = records(tmp_path / "out")
    assert record["status"] == "failed" and record["reason"].startswith("out of memory")


@pytest.mark.parametrize("options, said", [
    (["--model=GenRec", "--fsdp=true"], "fsdp=true needs several processes"),
    (["--model=SASRec", "--fsdp=true"], "fsdp=true cuts the layers of a language model, and SASRec has none")])
def test_pieces_need_processes_and_a_language_model(options, said, dataset, tmp_path, capsys):
    assert main(["run", *options, "--dataset=tiny", f"--config_files={dataset}", f"--output_dir={tmp_path}"]) == 2
    assert re.match(f"error: {re.escape(said)}", capsys.readouterr().err)
