"""Files of others are data: no file that is read can run code, and no name leads out of its folder.

Beside what is here: command-line names of data sets and values that look like code (test_config.py), GLM checkpoints
(test_glm_checkpoint.py), pages and tables with hostile texts (test_report.py, test_report_browser.py), formulas in
leaderboard.csv (test_records.py), the demo's Host header (test_recommend.py), names of converted data sets
(test_converter_failures.py).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import tiny_model
from converter_helpers import convert
from data_helpers import NAME, random_interactions, write_dataset

import recbole_genrec.settings
from recbole_genrec.backbone.loading import load_backbone
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.records import write_record
from recbole_genrec.zero_shot.cache import AnswerCache

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(REPOSITORY / "recbole_genrec").rglob("*.py"), *(REPOSITORY / "dataset_converters").rglob("*.py"),
                  REPOSITORY / "run_benchmark.py"])


# ----------------------------------------------------------------------------------------------------- our sources

_MODULES = {"marshal", "shelve", "joblib", "dill", "cloudpickle", "pickle"}
_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
          "pickle.Unpickler", "pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load",
          "yaml.load_all", "yaml.full_load_all"}


def dangers(source: str, may_load_yaml: bool = False) -> list[str]:
    """What in a source could run somebody else's code, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in _MODULES
                     and (alias.name != "pickle" or alias.asname)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _MODULES:
            names = [alias.name for alias in node.names if not alias.name.endswith("Error")]
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "yaml", "os"):
            names = [alias.name for alias in node.names if alias.name in ("load", "system", "popen")]
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            safe_yaml = may_load_yaml and given.get("Loader") in ("_Loader", "loader")
            if name in _CALLS or {given.get("shell"), given.get("allow_pickle")} - {None, "False"} \
                    or name == "torch.load" and given.get("weights_only") != "True" \
                    or name == "yaml.load" and not safe_yaml:
                names = [name]
        found += [f"line {node.lineno}: {name}" for name in names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_source_can_run_what_it_reads(path):
    assert dangers(path.read_text("utf-8"), path.name == "settings.py") == []


@pytest.mark.parametrize("source", [
    "import marshal", "import pickle as p", "from torch import load", "from dill import loads",
    "from pickle import load", "import joblib.numpy_pickle",
    "pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=flag)",
    "np.load(f, allow_pickle=True)", "yaml.load(f, Loader=yaml.Loader)", "yaml.load(f)", "yaml.unsafe_load(f)",
    "eval(x)", "exec(x)", "os.system(x)", "subprocess.run(x, shell=True)", "__import__(x)", "pd.read_pickle(f)"])
def test_the_check_finds_what_it_is_for(source):
    assert len(dangers(source, may_load_yaml=True)) == 1


def test_every_yaml_loader_makes_plain_values_only():
    safe = (yaml.SafeLoader, yaml.BaseLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for loader in ("_Loader", "TEXTS", "DUMPED"):
        assert issubclass(getattr(recbole_genrec.settings, loader), safe)


# --------------------------------------------------------------------------------------------------- files of others

class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def marker(tmp_path):
    """What a payload would make, and must not have made by the end."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def pickled(form: str, marker: Path) -> bytes:
    stream = io.BytesIO()
    if form == "pickle":
        pickle.dump({"weight": Evil(marker)}, stream)
    else:
        torch.save({"state_dict": Evil(marker)}, stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


FORMS = ["pickle", "zip", "legacy"]


@pytest.mark.parametrize("form", FORMS)
def test_the_payload_works_where_it_is_let(tmp_path, form):
    torch.load(io.BytesIO(pickled(form, tmp_path / "ran")), weights_only=False) if form != "pickle" else \
        pickle.loads(pickled(form, tmp_path / "ran"))
    assert (tmp_path / "ran").is_dir()


def refused(capsys, *arguments: str) -> str:
    """The one line with which a call is refused."""
    capsys.readouterr()
    assert main([*arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Runs of two models, barely trained, the data beside them."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_dataset(folder, random_interactions(30, 20, 5, 8), true_time_field=None)
    assert main(["run", "--model=Pop,SASRec", f"--dataset={NAME}", f"--config_files={data}", "--epochs=1", "--gpu_id=",
                 f"--output_dir={folder / 'out'}", "--show_progress=false", "--hidden_size=8", "--inner_size=8"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, and the call that reads it."""
    def copied(model: str) -> tuple[Path, list[str]]:
        source, = (trained / "out" / "runs").glob(f"{NAME}-{model}-*")
        folder = Path(shutil.copytree(source, tmp_path / source.name))
        return folder, ["recommend", f"--run={folder}", f"--data_path={trained}", "--history", "id:i1"]
    return copied


@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_that_calls_itself_safetensors_is_refused(run, marker, capsys, form):
    folder, call = run("SASRec")
    (folder / "model" / "model.safetensors").write_bytes(pickled(form, marker))
    (folder / "model" / "model.pth").write_bytes(pickled(form, marker))  # RecBole's name: never looked at
    assert "cannot be loaded" in refused(capsys, *call)


@pytest.mark.parametrize("form", FORMS)
def test_caches_and_checkpoints_of_recboles_are_never_unpickled(trained, marker, tmp_path, capsys, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    for path in ("saved/tiny-Dataset.pth", "saved/tiny-SequentialDataset.pth", "evil.pth"):
        Path(path).write_bytes(pickled(form, marker))
    call = ["run", f"--dataset={NAME}", f"--config_files={trained / NAME}.yaml", "--gpu_id=", "--show_progress=false"]
    assert main([*call, "--model=Pop", "--dataset_save_path=evil.pth", "--dataloaders_save_path=evil.pth",
                 "--checkpoint_dir=saved"]) == 0
    for key in ("save_dataset", "save_dataloaders"):
        assert "pickle" in refused(capsys, *call, "--model=Pop", f"--{key}=true")
    assert "is not loaded" in refused(capsys, *call, "--model=S3Rec", "--train_stage=finetune",
                                      "--pre_model_path=evil.pth")


TAG = "!!python/object/apply:os.mkdir [{}]"


def test_yaml_makes_no_objects_whoever_reads_it(run, trained, marker, tmp_path, capsys):
    folder, call = run("Pop")
    (tmp_path / "any.yaml").write_text(f"description: {TAG.format(marker)}\n")
    (folder / "config.yaml").write_text(f"topk: {TAG.format(marker)}\n")
    base = ["run", f"--dataset={NAME}", f"--config_files={trained / NAME}.yaml"]
    for more in (call, [*base, "--model=GenRec", f"--prompt={tmp_path / 'any.yaml'}"],
                 [*base, "--model=GenRec", f"--ablation={tmp_path / 'any.yaml'}"],
                 ["run", "--model=Pop", f"--dataset={NAME}", f"--config_files={tmp_path / 'any.yaml'}"]):
        assert "not valid YAML" in refused(capsys, *more)


def test_a_kept_answer_is_json_or_nothing(marker, tmp_path):
    cache = AnswerCache(tmp_path / "answers")
    cache._path({}).write_bytes(pickled("pickle", marker))
    assert cache.get({}) is None


# ------------------------------------------------------------------------------------------------ backbones of others

SETTINGS = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": None, "precision": "fp32",
            "trust_remote_code": False, "gradient_checkpointing": False, "torch_compile": False,
            "train_block_positions": None, "device": torch.device("cpu")}


@pytest.fixture
def backbone(tmp_path) -> Path:
    """A folder with a small LLaMA and its tokenizer."""
    tokenizer = train_tokenizer(["a story", "\n"], 300)
    tiny_model("llama", vocab=len(tokenizer)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("form", FORMS)
def test_pickled_weights_of_a_backbone_are_refused(trained, backbone, marker, capsys, form):
    (backbone / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pth", "adapter_model.bin", "training_args.bin"):
        (backbone / name).write_bytes(pickled(form, marker))
    line = refused(capsys, "run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={trained / NAME}.yaml",
                   f"--llm={backbone}", f"--output_dir={backbone.parent / 'out'}")
    assert "cannot be loaded" in line
    (backbone / "model.safetensors").write_bytes(pickled(form, marker))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone({**SETTINGS, "llm": str(backbone)}, [])


@pytest.fixture
def with_code(backbone, monkeypatch) -> Path:
    """A folder whose configuration is of a class in a file beside it, which makes a folder when it is imported."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(backbone.parent / "modules"))
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps({**config, "model_type": "theirs", "auto_map": {
        "AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"}}))
    (backbone / "theirs.py").write_text(
        f"import os\nos.makedirs({str(backbone.parent / 'ran')!r}, exist_ok=True)\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class TheirConfig(LlamaConfig):\n    model_type = 'theirs'\n"
        "class TheirModel(LlamaForCausalLM):\n    config_class = TheirConfig\n")
    return backbone


def test_code_of_a_backbone_is_refused_in_one_line(trained, with_code, marker, capsys):
    line = refused(capsys, "run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={trained / NAME}.yaml",
                   f"--llm={with_code}", f"--output_dir={with_code.parent / 'out'}")
    assert str(with_code) in line


def test_code_of_a_backbone_runs_with_a_warning_where_it_is_asked_for(with_code, caplog):
    with caplog.at_level(logging.WARNING, "recbole_genrec"):
        load_backbone({**SETTINGS, "llm": str(with_code), "trust_remote_code": True}, [])
    assert (with_code.parent / "ran").is_dir()
    assert f"trust_remote_code: Python code that comes with --llm={with_code} is run" in caplog.text


def test_no_shipped_setting_trusts_code():
    for path in (REPOSITORY / "properties").rglob("*.yaml"):
        assert recbole_genrec.settings.read_yaml(path).get("trust_remote_code") in (None, False)


# ------------------------------------------------------------------------------------------------ names that are paths

@pytest.mark.parametrize("name", ["../x", "/abs", "a/b", "..", "a\0b", ""])
def test_a_record_cannot_name_a_data_set_that_is_a_path(run, tmp_path, capsys, name):
    folder, call = run("Pop")
    record = json.loads((folder / "record.json").read_text("utf-8"))
    write_record(folder, {**record, "dataset": name})
    assert "no data set name" in refused(capsys, *call)
    (tmp_path / "out" / "runs").mkdir(parents=True)
    shutil.copytree(folder, tmp_path / "out" / "runs" / "any")
    write_record(tmp_path / "out" / "runs" / "any", {**record, "dataset": name, "model": "GenRec",
                                                     "ablation": "item_index",
                                                     "variant": "title"})
    before = sorted(tmp_path.rglob("*"))
    assert "no data set name" in refused(capsys, "ablation", "item_index", f"--output_dir={tmp_path / 'out'}")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()] == []


REVIEWS = b"".join(b'{"user_id": "u%d", "business_id": "b%d", "stars": 4.0, "date": "2019-01-0%d 00:00:00"}\n'
                   % (n % 2, n, n + 1) for n in range(6))
BUSINESSES = b"".join(b'{"business_id": "b%d", "name": "N%d", "categories": "a"}\n' % (n, n) for n in range(6))
ESCAPING = {f"../../{name}": content for name, content in (
    ("yelp_academic_dataset_review.json", REVIEWS), ("yelp_academic_dataset_business.json", BUSINESSES),
    ("evil", b"x"))}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_of_an_archive_is_written_beside_its_data_set(tmp_path, kind):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    path = deep / "yelp.archive"
    with zipfile.ZipFile(path, "w") if kind == "zip" else tarfile.open(path, "w") as archive:
        for name, content in ESCAPING.items():
            if kind == "zip":
                archive.writestr(name, content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    assert convert(deep, "yelp", "--tar", path) == 0  # a member is read by its base name, and never unpacked
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert files == ["a/b/out/data/conversion.json", "a/b/out/data/data.inter", "a/b/out/data/data.item",
                     "a/b/yelp.archive"]


def test_a_link_in_an_archive_is_no_file(tmp_path, capsys):
    (tmp_path / "secret").write_bytes(REVIEWS)
    with tarfile.open(tmp_path / "yelp.tar", "w") as archive:
        for name in ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
            archive.addfile(entry)
    assert convert(tmp_path, "yelp", "--tar", tmp_path / "yelp.tar") == 2
    assert "holds no yelp_academic_dataset_review.json" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- what we write

@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(\"x\")"])
def test_no_table_of_ours_has_a_formula(tmp_path, capsys, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    for number, model in enumerate(("GenRec", "SASRec")):
        folder = tmp_path / "results" / "runs" / f"{text.strip()}{number}".replace("/", "")
        folder.mkdir(parents=True)
        write_record(folder, {"run_id": folder.name, "dataset": text if number else "data", "model": model, "seed": 1,
                              "status": "ok", "split_fingerprint": text, "backbone": text, "ndcg@10": 0.1,
                              "hit@10": 0.2, "ablation": None if number else "item_index", "variant": None if number
                              else "title"})
    assert main(["compare"]) == 0 and main(["ablation", "item_index"]) == 0
    tables = [tmp_path / "results" / "significance.csv", *(tmp_path / "results" / "ablations").glob("*.csv")]
    assert len(tables) == 2
    for path in tables:
        with open(path, encoding="utf-8", newline="") as file:
            cells = {cell for row in csv.reader(file) for cell in row}
        assert any(cell.startswith("'") for cell in cells)
        assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "+", "@", "-") and not is_number(cell)]


def is_number(cell: str) -> bool:
    return pd.notna(pd.to_numeric(cell, errors="coerce"))


def test_the_demo_writes_titles_as_text():
    page = (REPOSITORY / "recbole_genrec" / "demo" / "page.html").read_text("utf-8")
    assert "textContent" in page
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in page
