"""The original GLM's published files: layouts of weights, what is refused, names of backbones."""

from __future__ import annotations

import json
import logging
import os
import pickle

import pytest
import torch
import yaml
from glm_helpers import TINY, inputs, tiny
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration, GLMModel
from recbole_genrec.backbone.glm_checkpoint import is_glm, load_glm, refuse_relatives
from recbole_genrec.errors import UserError
from recbole_genrec.settings import property_file


@pytest.fixture(scope="module")
def model() -> GLMForConditionalGeneration:
    return tiny()


# ------------------------------------------------------------------------------------------------- files of weights

def bare(model) -> dict[str, torch.Tensor]:
    """Weights as the hub's files have them: no prefix, no head."""
    return {name: weight.clone() for name, weight in model.glm.state_dict().items()}


def prefixed(model) -> dict[str, torch.Tensor]:
    return {f"glm.{name}": weight for name, weight in bare(model).items()}


def sharded(weights: dict[str, torch.Tensor], folder, stem: str, suffix: str, save) -> None:
    names = sorted(weights)
    files = {name: f"{stem}-{1 + number % 3:05}-of-00003.{suffix}" for number, name in enumerate(names)}
    for file in set(files.values()):
        save({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


LAYOUTS = {
    "safetensors": lambda weights, folder: save_file(weights, folder / "model.safetensors"),
    "bin": lambda weights, folder: torch.save(weights, folder / "pytorch_model.bin"),
    "old bin": lambda weights, folder: torch.save(weights, folder / "pytorch_model.bin",
                                                  _use_new_zipfile_serialization=False),
    "safetensors shards": lambda weights, folder: sharded(weights, folder, "model", "safetensors", save_file),
    "bin shards": lambda weights, folder: sharded(weights, folder, "pytorch_model", "bin", torch.save),
    "megatron": lambda weights, folder: torch.save({"module": weights, "iteration": 7},
                                                   folder / "mp_rank_00_model_states.pt"),
}


def same(first, second) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix_of", [bare, prefixed])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_loaded_bit_equal(model, tmp_path, layout, prefix_of):
    model.config.save_pretrained(tmp_path)
    LAYOUTS[layout](prefix_of(model), tmp_path)
    loaded = load_glm(str(tmp_path))
    assert same(loaded, model) and not loaded.training and loaded.name_or_path == str(tmp_path)
    assert loaded.lm_head.weight is loaded.glm.word_embeddings.weight
    assert all(weight.requires_grad for weight in loaded.parameters())
    assert torch.equal(loaded(*inputs()).logits, model(*inputs()).logits)


@pytest.mark.parametrize("prefix_of", [bare, prefixed])
def test_transformers_own_loading_takes_both_forms_of_keys(model, tmp_path, prefix_of):
    model.config.save_pretrained(tmp_path)
    save_file(prefix_of(model), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert same(GLMForConditionalGeneration.from_pretrained(tmp_path), model)
    assert same(GLMModel.from_pretrained(tmp_path), model.glm)


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_what_is_saved_is_loaded_and_saved_over_itself(model, tmp_path, shard_size):
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) > (shard_size == "20KB")
    loaded = load_glm(str(tmp_path))
    loaded.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert same(load_glm(str(tmp_path)), model)


def test_a_dtype_is_taken_and_unknown_fields_survive(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "torch_dtype": "float16", "later": [1, 2]}))
    torch.save({name: weight.half() for name, weight in bare(model).items()}, tmp_path / "pytorch_model.bin")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        loaded = load_glm(str(tmp_path), dtype)
        assert {weight.dtype for weight in loaded.parameters()} == {dtype} == {loaded.dtype} == {loaded.config.dtype}
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["later"] == [1, 2]


def test_a_head_saved_with_the_rest_must_be_the_table(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert same(load_glm(str(tmp_path)), model)
    torch.save({**bare(model), "lm_head.weight": torch.zeros(60, 32)}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "lm_head.weight differs")


@pytest.mark.parametrize("positions", [20, 80])
def test_the_files_number_of_positions_holds_and_is_logged(tmp_path, caplog, positions):
    model = tiny(max_sequence_length=positions)
    model.save_pretrained(tmp_path)
    GLMConfig(**TINY).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "recbole_genrec"):
        loaded = load_glm(str(tmp_path))
    assert f"{positions + 1} rows" in caplog.text and "41" in caplog.text
    assert same(loaded, model) and loaded.config.max_sequence_length == positions
    with pytest.raises(UserError, match=f"0 to {positions}"):
        loaded(torch.zeros(1, positions + 2).long())


# --------------------------------------------------------------------------------------------------------- refusals

def refused(folder, words: str, load=load_glm) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load(str(folder))
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message


def config_json(folder, **facts) -> None:
    (folder / "config.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("facts, name", [
    (dict(model_type="glm", num_hidden_layers=40, rope_theta=10000), "GLM-4"),
    (dict(model_type="glm4", num_hidden_layers=40), "GLM-4"),
    (dict(model_type="chatglm", position_encoding_2d=True, num_layers=28), "ChatGLM-6B"),
    (dict(model_type="chatglm", num_layers=28, multi_query_attention=True), "ChatGLM2")])
def test_relatives_are_refused_by_name(tmp_path, facts, name):
    config_json(tmp_path, **facts)
    assert not is_glm(str(tmp_path))
    for check in (refuse_relatives, load_glm):
        refused(tmp_path, f"is .*{name}.* use ", check)


def test_other_models_are_no_glm_and_no_relatives(tmp_path, model):
    config_json(tmp_path, model_type="llama")
    refuse_relatives(str(tmp_path))
    assert not is_glm(str(tmp_path)) and not is_glm(str(tmp_path / "nothing")) and not is_glm("somebody/no-such-model")
    refused(tmp_path, "is no original GLM .model_type 'llama'")
    refused(tmp_path / "nothing", "no config.json")
    model.config.save_pretrained(tmp_path)
    assert is_glm(str(tmp_path))
    refuse_relatives(str(tmp_path))
    # What must not be asked: it answers with GLM-4, without an error.
    assert PreTrainedConfig.get_config_dict(tmp_path)[0]["model_type"] == "glm"
    refused(tmp_path, "there are no weights")
    for content in ("{", "[]", "3"):
        (tmp_path / "config.json").write_text(content)
        assert not is_glm(str(tmp_path))
        refused(tmp_path, "config.json|model_type")
    config_json(tmp_path, block_position_encoding=True, num_attention_heads="many")
    refused(tmp_path, "describes no GLM")


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "mp_rank_00_model_states.pt"])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_with_code_in_it_is_refused_and_not_run(model, tmp_path, file, new_format):
    model.config.save_pretrained(tmp_path)
    content = {**bare(model), "word_embeddings.bias": Evil(str(tmp_path / "ran"))}
    torch.save(content, tmp_path / file, _use_new_zipfile_serialization=new_format)
    refused(tmp_path, "more than tensors")
    (tmp_path / file).write_bytes(pickle.dumps(content["word_embeddings.bias"]))
    refused(tmp_path, "more than tensors|cannot be read")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_are_refused(model, tmp_path, layout):
    model.config.save_pretrained(tmp_path)
    LAYOUTS[layout](bare(model), tmp_path)
    path = next(path for path in sorted(tmp_path.iterdir()) if path.suffix in (".safetensors", ".bin", ".pt"))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no weights at all"):
        path.write_bytes(content)
        refused(tmp_path, "damaged|cannot be read")


def test_damaged_indices_and_lost_shards_are_refused(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    LAYOUTS["bin shards"](bare(model), tmp_path)
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    refused(tmp_path, "00002-of-00003.bin")
    for content in ("{", "[]", '{"weight_map": 3}'):
        (tmp_path / "pytorch_model.bin.index.json").write_text(content)
        refused(tmp_path, "no index")


def test_split_megatron_files_are_refused(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    for rank in range(2):
        torch.save({"module": bare(model)}, tmp_path / f"mp_rank_0{rank}_model_states.pt")
    refused(tmp_path, "model parallelism")


@pytest.mark.parametrize("change, words", [
    (lambda weights: weights.pop("transformer.layers.1.attention.dense.bias"), "lack 'transformer.layers.1.att"),
    (lambda weights: weights.pop("transformer.position_embeddings.weight"), "lack 'transformer.position_emb"),
    (lambda weights: weights.update({"transformer.layers.2.extra": torch.zeros(2)}), "have 'transformer.layers.2.ex"),
    (lambda weights: weights.update({"word_embeddings.weight": torch.zeros(61, 32)}), r"'word_.*\[61, 32\].*\[60, 32"),
    (lambda weights: weights.update({"transformer.position_embeddings.weight": torch.zeros(9, 32)}), "9 and 41 rows"),
    (lambda weights: weights.update({"step": 3}), "no table of tensors")])
def test_weights_that_are_not_the_configs_are_refused(model, tmp_path, change, words):
    model.config.save_pretrained(tmp_path)
    weights = bare(model)
    change(weights)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    refused(tmp_path, words)


# -------------------------------------------------------------------------------------------------------- properties

@pytest.mark.parametrize("name", ["glm-large", "glm-roberta-large", "glm-2b", "glm-10b"])
def test_published_backbones_are_named_by_hub_id(name):
    with open(property_file("backbone", name), encoding="utf-8") as file:
        assert yaml.safe_load(file) == {"llm": f"THUDM/{name}"}


def test_the_tiny_backbone_is_a_glm():
    with open(property_file("backbone", "tiny-glm"), encoding="utf-8") as file:
        description = yaml.safe_load(file)
    assert description["kind"] == "glm" and description["tokenizer"]["vocab_size"] == 6000
    model = GLMForConditionalGeneration(GLMConfig(**description["config"], vocab_size=100))
    assert sum(weight.numel() for weight in model.parameters()) < 1e6
    model.train()
    tokens = torch.arange(9)[None]
    assert torch.equal(model(tokens).logits, model(tokens).logits)  # no dropout
