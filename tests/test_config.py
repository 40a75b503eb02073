"""A mistake in the call is one line and exit code 2, before anything is trained."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from data_helpers import NAME, SETTINGS, config_of, random_interactions, records, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_genrec import suite
from recbole_genrec.cli import main
from recbole_genrec.config import Config
from recbole_genrec.errors import UserError
from recbole_genrec.model.registry import OURS, models_of
from recbole_genrec.running import parallel
from recbole_genrec.settings import parse_value, property_file, property_names, read_yaml
from recbole_genrec.validation import check_keys, known_keys

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def data(tmp_path) -> Path:
    return write_dataset(tmp_path / "dataset", random_interactions(users=8))


def refused(capsys, *arguments: str) -> str:
    """The one line of a refused call, which leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    assert main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and "Traceback" not in err
    after = [path for path in sorted(Path().rglob("*")) if path not in before]
    assert [path for path in after if path.name not in ("results", "runs")] == []  # at most empty folders
    return err


# ---------------------------------------------------------------------------------------------- names and keys

@pytest.mark.parametrize("key, nearest", [("learning_rat", "learning_rate"), ("Train_batch_size", "train_batch_size"),
                                          ("numbeams", "num_beams"), ("decoding", None), ("--epochs", "epochs")])
def test_unknown_key_names_the_nearest(capsys, key, nearest):
    line = refused(capsys, "--model=GenRec", "--dataset=ml-100k", f"--{key}=1")
    assert f"'{key}'" in line and (nearest is None or f"did you mean '{nearest}'" in line)


def test_unknown_key_in_a_file(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("epochz: 3\n5: x\n")
    assert "did you mean 'epochs'" in refused(capsys, "--model=Pop", "--dataset=ml-100k", "--config_files=mine.yaml")
    (tmp_path / "mine.yaml").write_text("5: x\n")
    assert "'5'" in refused(capsys, "--model=Pop", "--dataset=ml-100k", "--config_files=mine.yaml")


@pytest.mark.parametrize("name, nearest", [("GenRek", "GenRec"), ("sasrec", "SASRec"), ("GRU4Re", "GRU4Rec"),
                                           ("pop", "Pop"), ("SASRec,GenRek", "GenRec"), ("xyzxyz", None)])
def test_unknown_model_names_the_nearest_or_all(capsys, name, nearest):
    line = refused(capsys, f"--model={name}", "--dataset=ml-100k")
    assert (f"did you mean '{nearest}'" if nearest else ", ".join(models_of(OURS))) in line


@pytest.mark.parametrize("name, nearest", [("amazon-toy", "amazon-toys"), ("ml100k", "ml-100k"), ("zzz", None)])
def test_unknown_dataset_names_the_nearest_or_all(capsys, name, nearest):
    line = refused(capsys, "--model=Pop", f"--dataset={name}")
    assert (f"did you mean '{nearest}'" if nearest else "amazon-beauty, amazon-beauty-2018") in line


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "a\nb", "a b", "n" * 300, "\x00", "-x"])
def test_a_path_is_no_dataset_name(capsys, name):
    assert "no data set name" in refused(capsys, "--model=Pop", f"--dataset={name}")


def test_missing_files_name_the_command_that_makes_them(capsys, tmp_path):
    about = read_yaml_of_toys()["about"]
    raw, ready = (" ".join(about[key].split()) for key in ("convert", "convert_sequences"))
    assert raw.startswith("python -m dataset_converters amazon") and "--name amazon-toys" in raw
    line = refused(capsys, "--model=Pop", "--dataset=amazon-toys")
    assert "dataset/amazon-toys/amazon-toys.inter" in line and line.rstrip().endswith(f"{raw}, or: {ready}")
    target = tmp_path / "dataset" / "amazon-toys"
    target.mkdir(parents=True)
    (target / "amazon-toys.inter").write_text("user_id:token\n")
    line = refused(capsys, "--model=Pop", "--dataset=amazon-toys")
    assert "amazon-toys.item" in line and line.rstrip().endswith(ready)


def read_yaml_of_toys() -> dict:
    return yaml.safe_load(property_file("dataset", "amazon-toys").read_text("utf-8"))


def test_title_field_missing_or_wrong(capsys, data):
    call = ["--model=Pop", f"--dataset={NAME}", f"--config_files={data}"]
    line = refused(capsys, *call, "--title_field=titel")
    assert "item_id, title, class" in line and "did you mean 'title'" in line
    line = refused(capsys, *call, "--title_field=null")
    assert "item_id, title, class" in line and "--title_field=title" in line


# ------------------------------------------------------------------------------------------------------ values

@pytest.mark.parametrize("setting", [
    "epochs=-1", "epochs=1.5", "epochs=many", "epochs=true", "train_batch_size=0", "learning_rate=-1e-3",
    "learning_rate=.nan", "learning_rate=.inf", "learning_rate=[1]", "MAX_ITEM_LIST_LENGTH=0", "seed=-1",
    "lora_dropout=1.5", "max_prompt_tokens=3", "hidden_dropout_prob=2", "topk=[]", "topk=0", "topk=[5,x]",
    "topk=[5.5,10]", "topk={a: 1}", "valid_metric=MRR@10", "valid_metric=NDCG@7", "eval_args=5",
    "about=text", "output_dir=5", "data_path=[1]", "title_format=3", "load_col=all",
    "seed=~", "output_dir=~", "epochs=~", "train_batch_size=~", "MAX_ITEM_LIST_LENGTH=~", "num_beams=~",
    "lora_target_modules=3", "lora_target_modules=[q_proj, 3]", "metrics=~", "period_days=7",
])
def test_value_out_of_range(capsys, tmp_path, setting):
    key, value = setting.split("=", 1)
    (tmp_path / "mine.yaml").write_text(f"{key}: {value}\n")  # output_dir= of the command line is always text
    model = {"hidden_dropout_prob": "SASRec", "period_days": "RecSysLLM"}.get(key, "GenRec")
    line = refused(capsys, f"--model={model}", "--dataset=ml-100k", "--config_files=mine.yaml")
    assert key in line


@pytest.mark.parametrize("setting, said", [
    ("layout=per-target", "'per_target'"), ("decode=greedy", "exact_topk, exact_all"), ("norm=0", "full, trie"),
    ("learner=adamx", "adamw"), ("mask_history=maybe", "true, false"), ("precision=fp16", "fp32, bf16"),
    ("metrics=[Hitt]", "'Hitt'"), ("eval_args={mode: uniX}", "'X'"),  # by RecBole
])
def test_value_not_among_the_choices(capsys, setting, said):
    line = refused(capsys, "--model=GenRec", "--dataset=ml-100k", f"--{setting}")
    assert said in line and (setting.split("=")[0] in line or "RecBole refuses" in line)


@pytest.mark.parametrize("setting", ["decode_budget=null", "checkpoint_minutes=null", "clip_grad_norm=null",
                                     "max_train_minutes=null", "lora_target_modules=q_proj"])
def test_values_that_mean_none(setting):
    key, value = setting.split("=")
    config = Config("GenRec", "ml-100k", config_dict={key: parse_value(value)})
    assert config[key] == parse_value(value)


@pytest.mark.parametrize("model, setting, said", [
    ("S3Rec", "train_stage=finetune", "pre-trains and fine-tunes in one run"),
    ("S3Rec", "train_stage=both", "pre-trains and fine-tunes in one run"),
    ("Pop", "save_dataset=true", "pickle"), ("Pop", "save_dataloaders=true", "pickle"),
    ("GenRec", "prompt=none", "prompt has no value"),
])
def test_what_would_be_ignored_or_fail_later_is_refused(capsys, model, setting, said):
    line = refused(capsys, f"--model={model}", "--dataset=ml-100k", f"--{setting}")
    assert said in line and setting.split("=")[0] in line


@pytest.mark.parametrize("visible, gpu_id, expected", [
    (None, "0", "0"), (None, "0,1", "0,1"), ("3,5", "1", "5"), ("3,5", "0,1", "3,5"), ("GPU-8f2a", "0", "GPU-8f2a"),
    ("", "0", ""), ("3", "", ""), ("3", None, ""),
])
def test_gpus_are_counted_among_those_that_the_user_shows(own_folder, monkeypatch, visible, gpu_id, expected):
    monkeypatch.setattr(parallel, "_VISIBLE", visible)
    assert Config("Pop", "ml-100k", config_dict={"gpu_id": gpu_id})["gpu_id"] == expected
    assert Config("Pop", "ml-100k", config_dict={"gpu_id": gpu_id, "use_gpu": False})["gpu_id"] == ""


def test_a_gpu_that_is_not_shown_is_refused(own_folder, monkeypatch):
    monkeypatch.setattr(parallel, "_VISIBLE", "3")
    with pytest.raises(UserError, match="gpu_id=1, counted from 0, but CUDA_VISIBLE_DEVICES=3 shows 1"):
        Config("Pop", "ml-100k", config_dict={"gpu_id": 1})


def test_fewer_beams_than_topk(capsys):
    line = refused(capsys, "--model=GenRec", "--dataset=ml-100k", "--decode=beam", "--num_beams=10")
    assert "num_beams=10" in line and "20" in line


@pytest.mark.parametrize("arguments", [[], ["--model=Pop"], ["--model", "--dataset=ml-100k"], ["--model="],
                                       ["--model=,", "--dataset=ml-100k"], ["--model=Pop", "--dataset=ml-100k", "x"],
                                       ["--model=Pop", "--dataset=ml-100k", "--epochs", "3"],
                                       ["--model=Pop", "--dataset=ml-100k", "--seed=one"],
                                       ["--model=Pop", "--dataset=ml-100k", "--seed="]], ids=str)
def test_a_call_that_cannot_be_read(capsys, arguments):
    refused(capsys, *arguments)


@pytest.mark.parametrize("content, said", [
    (None, "cannot read"), ("- a\n- b\n", "list"), ("just text", "'key: value'"), ("a: [1", "not valid YAML"),
    ("a: 2024-13-45", "not valid YAML"), ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    (b"\xff\xfe\x00", "not valid YAML"), ("a: " + "[" * 5000, "not valid YAML"), ("a:\n\tb: 1", "not valid YAML"),
], ids=["missing", "list", "text", "open bracket", "no date", "python object", "binary", "deep", "tab"])
def test_config_file_that_is_none(capsys, tmp_path, content, said):
    if content is not None:
        (tmp_path / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(capsys, "--model=Pop", "--dataset=ml-100k", "--config_files=mine.yaml")
    assert "mine.yaml" in line and said in line


def test_empty_config_file_says_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


# ---------------------------------------------------------------------------------------- precedence and parsing

@pytest.mark.parametrize("text, value", [
    ("3e-4", 3e-4), ("1e5", 1e5), ("-2.5E+3", -2500.0), ("3", 3), ("0.5", 0.5), ("true", True), ("null", None),
    ("", None), ("[5, 10]", [5, 10]), ("{a: 1}", {"a": 1}), ("text", "text"), ("a: b: c", "a: b: c"),
    ("2024-13-45", "2024-13-45"), ("e5", "e5"), ("1e", "1e"), ("0x_", "0x_"), ("[", "["),
])
def test_command_line_values(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_scientific_notation_in_a_file_is_a_number(tmp_path, data):
    (tmp_path / "mine.yaml").write_text("learning_rate: 3e-4\n")
    assert Config("SASRec", NAME, [data, tmp_path / "mine.yaml"])["learning_rate"] == 3e-4


def test_later_files_win_and_the_command_line_over_all(tmp_path, data):
    for name, epochs in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.yaml").write_text(f"epochs: {epochs}\n")
    files = [data, tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert Config("SASRec", NAME, files)["epochs"] == 2
    assert Config("SASRec", NAME, files[::-1])["epochs"] == 1
    assert Config("SASRec", NAME, files, {"epochs": 3})["epochs"] == 3


def test_eval_args_given_in_part_keep_the_protocol(data):
    """RecBole would fall back to a random split."""
    given_mode = config_of(data, eval_args={"mode": "uni100"})["eval_args"]
    assert given_mode["split"] == {"LS": "valid_and_test"} and given_mode["order"] == "TO"
    assert given_mode["mode"] == {"valid": "uni100", "test": "uni100"}
    given_split = config_of(data, eval_args={"split": {"RS": [8, 1, 1]}})["eval_args"]
    assert given_split["split"] == {"RS": [8, 1, 1]} and given_split["order"] == "TO"


def test_load_col_given_in_part_keeps_the_rest(data):
    assert config_of(data, load_col={"user": ["user_id"]})["load_col"] == {**SETTINGS["load_col"], "user": ["user_id"]}


@pytest.mark.parametrize("key", ["hidden_act", "title_format", "data_path", "loss_type", "user_inter_num_interval",
                                 "epochs", "topk", "metrics", "valid_metric"])
def test_no_value_is_ever_evaluated(tmp_path, data, key):
    trap = tmp_path / "trapped"
    code = f"__import__('pathlib').Path({str(trap)!r}).write_text('x')"
    main(["run", "--model=SASRec", f"--dataset={NAME}", f"--config_files={data}", "--epochs=0", f"--{key}={code}"])
    assert not trap.exists()


def test_the_callers_arguments_are_not_read(monkeypatch, data):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=77", "--learning_rate=9", "--topk=[3]"])
    config = config_of(data, model="SASRec")
    assert config["epochs"] != 77 and config["learning_rate"] != 9 and config["topk"] == SETTINGS["topk"]


def test_a_key_of_one_model_is_accepted_beside_others_and_changes_only_that_one(data, monkeypatch):
    ran = []
    monkeypatch.setattr(suite, "run", lambda config, folder, wait: ran.append(config) or {"status": "ok"})
    call = ["run", f"--dataset={NAME}", f"--config_files={data}", "--dropout_prob=0.25"]
    assert main([*call, "--model=Pop,GRU4Rec"]) == 0
    assert [config["dropout_prob"] for config in ran] == [None, 0.25]
    assert main([*call, "--model=Pop"]) == 2


def test_whatever_a_dataset_file_may_say_any_model_accepts(data, monkeypatch):
    """A user's own data set names S3Rec's and FDSA's columns, as ours do."""
    monkeypatch.setattr(suite, "run", lambda config, folder, wait: {"status": "ok"})
    assert main(["run", "--model=GRU4Rec", f"--dataset={NAME}", f"--config_files={data}"]) == 0


@pytest.mark.parametrize("dataset", property_names("dataset"))
@pytest.mark.parametrize("model", ["GenRec", "RecSysLLM", "SASRec"])
def test_every_shipped_dataset_configures(dataset, model):
    config = Config(model, dataset)
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"} and config["title_field"]
    assert config["TIME_FIELD"] in config["load_col"]["inter"] and config["topk"] == [5, 10, 20]


@pytest.mark.parametrize("header, said", [
    ("user_id\titem_id\ttime", "name every column as name:type"),
    ("user_id:tokn\titem_id:token", "did you mean 'token'"),
    ("user_id:token\tuser_id:token", "two columns 'user_id'"), ("\ufeffuser_id:token", "byte order mark"),
    ("user_id:token,item_id:token,time:float", "name:type"),
])
def test_a_header_that_recbole_cannot_read(capsys, data, header, said):
    path = data.parent / NAME / f"{NAME}.inter"
    whole = path.read_text("utf-8")
    path.write_text(header + "\n" + whole.split("\n", 1)[1], "utf-8")
    try:
        assert said in refused(capsys, "--model=Pop", f"--dataset={NAME}", f"--config_files={data}")
    finally:
        path.write_text(whole, "utf-8")


def test_converted_data_are_read_in_the_order_of_their_positions(capsys, data):
    """Another order would undo what the converter was told to do with ties."""
    report = data.parent / NAME / "conversion.json"
    report.write_text("{}")
    try:
        line = refused(capsys, "--model=Pop", f"--dataset={NAME}", f"--config_files={data}")
        assert "set TIME_FIELD=position" in line
    finally:
        report.unlink()


# ---------------------------------------------------------------------------------------------------- any input

def test_a_late_mistake_leaves_no_run(capsys, tmp_path):
    """Known only once the data is read: too few users for a split."""
    data = write_dataset(tmp_path / "small", [("u", item, 1.0) for item in "ab"] + [("v", "c", 1.0)], topk=[1],
                         valid_metric="NDCG@1")
    line = refused(capsys, "--model=Pop", f"--dataset={NAME}", f"--config_files={data}")
    assert "leave" in line


KEYS = sorted(known_keys("GenRec", "ml-100k") | known_keys("SASRec", "ml-100k"))
ODD_VALUES = [
    "", "null", "-1", "0", "1e999", ".nan", "[]", "{}", "[[1]]", "{a: {b: c}}", "true", "2024-13-45", "0x_", "!!int x",
    "&a [*a]", "*a", "? :", "uni5", "[0,inf)", "\x00", "\udcff", "9" * 400, "x" * 400, "__import__('os')", "[1, two]",
    "'"]
VALUES = st.text(max_size=20) | st.sampled_from(ODD_VALUES) | st.binary(max_size=8).map(os.fsdecode)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KEYS) | st.text(max_size=12), VALUES)
def test_no_setting_gives_a_traceback(data, monkeypatch, key, value):
    """Any text as --key=value is fine or the user's mistake; what happens in a run is caught and recorded there."""
    monkeypatch.setattr(suite, "run", lambda config, folder, wait: {"status": "ok"})
    call = ["run", "--model=GenRec,SASRec", f"--dataset={NAME}", f"--config_files={data}", "--output_dir=out"]
    assert main([*call, f"--{key}={value}"]) in (0, 2)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=12) | st.sampled_from(["--model=Pop", "--dataset=tiny", "--seed=1", "--llm=", "--"]),
                max_size=4))
def test_no_argument_gives_a_traceback(monkeypatch, arguments):
    monkeypatch.setattr(suite, "run", lambda config, folder, wait: {"status": "ok"})
    assert main(["run", *arguments]) == 2  # there is no data set 'tiny' here


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet="ab: -[]{}!&*\n'\"#|>%@1", max_size=30).map(str.encode))
def test_no_config_file_gives_a_traceback(tmp_path, content):
    (tmp_path / "any.yaml").write_bytes(content)
    try:
        assert isinstance(read_yaml(tmp_path / "any.yaml"), dict)
    except UserError as error:
        assert "any.yaml" in str(error)


def test_a_run_with_a_name_that_is_no_unicode_is_recorded(tmp_path, data):
    """A folder's name may hold any bytes."""
    call = ["run", "--model=GenRec", f"--dataset={NAME}", f"--config_files={data}", "--output_dir=out",
            "--num_beams=10"]
    assert main([*call, "--llm=no-such-\udcff", "--epochs=0"]) in (1, 2)
    assert all(record["status"] == "failed" for record in records(tmp_path / "out"))


# ---------------------------------------------------------------------------------------------- the shipped files

@pytest.mark.parametrize("name", [name for name in property_names("experiment") if name.count("_") == 2])
def test_every_experiment_says_only_what_is_read(name):
    """A paper's setting must not hold a key that nothing reads, and its published rows must be possible numbers."""
    content = read_yaml(property_file("experiment", name))
    model, dataset = name.split("_")[1:3]
    model = next(known for known in models_of(OURS) if known.lower() == model)
    check_keys(content, [model], [dataset])
    assert Config(model, dataset, [str(property_file("experiment", name))])["published"] == content["published"]
    rows = content["published"][dataset]
    assert model in rows
    for metrics in rows.values():
        assert all(0 < value < 1 for value in metrics.values())
        assert metrics["ndcg@5"] <= metrics["hit@5"] <= metrics["hit@10"]


@pytest.mark.parametrize("name", property_names("dataset"))
def test_every_data_set_says_where_it_comes_from(name):
    content = read_yaml(property_file("dataset", name))
    assert {"source", "licence", "domain", "expected"} <= content["about"].keys()
    expected = content["about"]["expected"] or {}
    published = {"users", "items", "interactions"} if not name.endswith("-2018") else {"read"}
    assert set(expected) == (published if name != "amazon-sports-2023" else set())
    for command in (content["about"].get("convert", ""), content["about"].get("convert_sequences", "")):
        if "--expect" in command:  # what the converter checks is what the file says
            counts = command.split("--expect ")[1].split()[0]
            assert dict(pair.split("=") for pair in counts.split(",")) == {key: str(n) for key, n in expected.items()}
    assert content["title_field"] in content["load_col"]["item"]
    assert isinstance(content["repeat_consumption"], bool)
