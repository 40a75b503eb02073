"""The worked examples in docs/, carried out as they stand there: files written, commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import random_interactions, records, write_dataset

from dataset_converters.__main__ import main as convert
from recbole_genrec.cli import main, parse
from recbole_genrec.commands.arguments import overrides_of
from recbole_genrec.suite import gather_settings

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
QUICK = ["--epochs=1", "--train_batch_size=64", "--validity_users=0", "--gradient_accumulation_steps=1"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def run(command: str, dataset: Path, output: Path) -> dict:
    """The record of a command of the page, on a small data set."""
    name, *arguments = shlex.split(command.replace("--dataset=ml-100k", "--dataset=tiny"))
    assert name == "recbole-genrec"
    assert main([*arguments, *QUICK, f"--config_files={dataset}", f"--output_dir={output}"]) == 0
    return records(output)[-1]


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_dataset(tmp_path / "data", random_interactions(20, 12, 5, 8))


def test_an_index_from_outside_the_package(dataset, tmp_path, monkeypatch):
    page = (DOCS / "item-index.md").read_text("utf-8")
    module, = re.findall(r"`(myindexes/\w+\.py)`", page)
    source, = blocks("item-index.md", "python")
    (tmp_path / module).parent.mkdir()
    (tmp_path / module).write_text(source, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    command, = blocks("item-index.md", "bash")
    record = run(command, dataset, tmp_path / "out")
    assert record["status"] == "ok" and record["item_index"] == "myindexes.by_class"
    assert record["letters"] == 1 and record["leaky"] is False  # every title of the small data begins with "The"


def test_prompts_from_outside_the_package(dataset, tmp_path):
    fingerprints = set()
    for number, (source, command) in enumerate(zip(blocks("prompt.md", "yaml"), blocks("prompt.md", "bash"),
                                                   strict=True)):
        name = source.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(source, "utf-8")
        assert f"./{name}" in command
        shipped = run(command.replace(f" --prompt=./{name}", ""), dataset, tmp_path / f"shipped{number}")
        record = run(command, dataset, tmp_path / f"out{number}")
        assert record["status"] == "ok"
        fingerprints |= {record["prompt_fingerprint"], shipped["prompt_fingerprint"]}
    assert len(fingerprints) == 4


@pytest.mark.parametrize("model, text, message", [
    ("GenRec", "version: 1", "has no list of texts 'instructions': is it of another model's form?"),
    ("GenRec", "{instructions: [a], prefix: '{instruction}', suffix: 3}", "has no text 'suffix'"),
    ("GenRec", "{instructions: ['a {noun}'], prefix: '{instruction}', suffix: b, domains: {movies: {noun: c}}}",
     "no words for this data set, and no 'default'"),
    ("GenRec", "{instructions: [a], prefix: b, suffix: c, domain: {default: {noun: d}}}", "did you mean 'domains'"),
    ("GenRec", "{instructions: ['a {nuon}'], prefix: '{instruction}', suffix: b}", "must be one of noun, verb"),
    ("GenRec", "{instructions: ['a {'], prefix: '{instruction}', suffix: b, domains: {default: {noun: c}}}",
     "must be one of noun"),
    ("GenRec", "{instructions: [a], prefix: b, suffix: c, domains: [d]}", "'domains' must say"),
    ("P5", "{seen: [], unseen: ['{user}{history}'], separator: ','}", "has no list of texts 'seen'"),
    ("P5", "{seen: ['{user}'], unseen: ['{user}{history}'], separator: ','}", "must have each of history, user once"),
    ("P5", "{seen: ['{user}{history'], unseen: ['{user}{history}'], separator: ','}", "template '{user}{history'"),
    ("RecSysLLM", "{infill: '{user}{history}', sequential: {seen: [a]}, candidates: {}}",
     "'sequential' has no list of texts 'unseen'"),
])
def test_a_prompt_of_another_form_is_one_sentence(dataset, tmp_path, capsys, model, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["run", f"--model={model}", "--dataset=tiny", f"--config_files={dataset}", "--prompt=./mine.yaml",
                 f"--output_dir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the package, to put files into."""
    for folder in ("recbole_genrec", "properties"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "checkout" / folder,
                        ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


def in_checkout(checkout: Path, command: str, dataset: Path, output: Path) -> list[dict]:
    """The records of a command of a page, carried out by the copy."""
    words = shlex.split(command.replace("--dataset=ml-100k", "--dataset=tiny"))[1:]
    done = subprocess.run([sys.executable, "-m", "recbole_genrec", *words, *QUICK, f"--config_files={dataset}",
                           f"--output_dir={output}"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(checkout)})
    assert done.returncode == 0, done.stderr
    return records(output)


def test_a_model_of_ones_own(dataset, checkout, tmp_path):
    page = (DOCS / "new-model.md").read_text("utf-8")
    module, = re.findall(r"`(recbole_genrec/model/sequential_recommender/markovchain\.py)`", page)
    settings, = re.findall(r"`(properties/model/MarkovChain\.yaml)`", page)
    (checkout / module).write_text(*blocks("new-model.md", "python"), "utf-8")
    (checkout / settings).write_text(*blocks("new-model.md", "yaml"), "utf-8")
    command, = blocks("new-model.md", "bash")
    chain, pop = in_checkout(checkout, command, dataset, tmp_path / "out")
    assert chain["model"] == "MarkovChain" and chain["status"] == "ok" and chain["users"] == pop["users"]
    assert chain["split_fingerprint"] == pop["split_fingerprint"]


def test_a_backbone_of_ones_own(dataset, checkout, tmp_path):
    page = (DOCS / "new-backbone.md").read_text("utf-8")
    target, = re.findall(r"`(properties/backbone/small-qwen\.yaml)`", page)
    (checkout / target).write_text(*blocks("new-backbone.md", "yaml"), "utf-8")
    _, command = blocks("new-backbone.md", "bash")
    record, = in_checkout(checkout, command, dataset, tmp_path / "out")
    assert record["status"] == "ok" and record["backbone"] == "small-qwen"


def test_a_data_set_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = ["mug", "plate", "mug2", "spoon", *(f"thing{number}" for number in range(26))]
    users = ["anna mug plate mug2 spoon"]
    users += [" ".join([f"user{user}", *(items[(user * 7 + step * step) % 30] for step in (0, 1, 2, 3, 5))])
              for user in range(12)]
    Path("sequences.txt").write_text("".join(f"{line}\n" for line in users))
    Path("titles.tsv").write_text("".join(f"{item}\tThe {item}\n" for item in items))
    conversion, commands = blocks("new-dataset.md", "bash")
    assert convert(shlex.split(conversion)[3:]) == 0
    Path("shop.yaml").write_text(*blocks("new-dataset.md", "yaml"), "utf-8")
    check, run_all = commands.splitlines()
    assert main(shlex.split(check)[1:]) == 0
    assert main([*shlex.split(run_all)[1:], *QUICK, "--topk=[5,10]", "--valid_metric=NDCG@10"]) == 0
    assert {record["model"]: record["status"] for record in records(Path("results"))} == dict.fromkeys(
        ("GenRec", "SASRecPlus", "Pop"), "ok")


def test_every_model_has_a_card():
    cards = "".join(path.read_text("utf-8") for path in (DOCS / "models").glob("*.md"))
    assert all(f"# {name}\n" in cards for name in ("GenRec", "RecSysLLM", "GenRecT5", "P5", "SASRecPlus", "ItemLM"))


def test_the_commands_for_several_processes_are_understood():
    """Each is carried out, on small data, by tests/test_parallel.py and tests/test_grid.py."""
    lines = [line for block in blocks("processes.md", "bash") for line in block.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if "run_benchmark.py" in line or line.startswith("recbole-genrec")]
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command)
        words = words[words.index("run_benchmark.py") + 1:] if "run_benchmark.py" in words else words[1:]
        if words[0] == "grid":
            words = parse(words).settings
        arguments = parse(["run", *words])
        gather_settings(arguments.model.split(","), arguments.dataset.split(","), [], overrides_of(arguments))
