"""The worked examples in docs/, carried out as they stand there: files written, commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from data_helpers import random_interactions, records, write_dataset

from recbole_genrec.cli import main, parse
from recbole_genrec.commands.arguments import overrides_of
from recbole_genrec.suite import gather_settings

DOCS = Path(__file__).resolve().parents[1] / "docs"
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
    ("GenRec", "{instructions: ['a {noun}'], prefix: '{instruction}', suffix: b}", "it has no words for this domain"),
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
