"""GLM's weights, their beginning and training, and its config."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from glm_helpers import inputs, tiny
from safetensors.torch import load_file

from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration
from recbole_genrec.errors import UserError

LORA_MODULES = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
#: layers, hidden size, heads, vocabulary, largest position, parameters of the published models.
PUBLISHED = {
    "glm-large": (24, 1024, 16, 30592, 512, 334_688_256),
    "glm-roberta-large": (24, 1024, 16, 50304, 512, 354_873_344),
    "glm-515m": (30, 1152, 18, 30592, 512, 514_632_960),
    "glm-2b": (36, 2048, 32, 50304, 1024, 1_920_122_880),
    "glm-10b": (48, 4096, 64, 50304, 1024, 9_880_682_496),
    "glm-large-chinese": (24, 1024, 16, 50048, 1024, 355_659_776),
    "glm-10b-chinese": (48, 4096, 64, 50048, 1024, 9_879_633_920),
}


def published(name: str) -> GLMForConditionalGeneration:
    layers, hidden, heads, vocab, positions, _ = PUBLISHED[name]
    with torch.device("meta"):
        return GLMForConditionalGeneration(GLMConfig(num_layers=layers, hidden_size=hidden, num_attention_heads=heads,
                                                     vocab_size=vocab, max_sequence_length=positions))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_number(name):
    assert sum(weight.numel() for weight in published(name).parameters()) == PUBLISHED[name][-1]


def test_the_state_dict_is_the_published_one():
    model = published("glm-10b")
    shapes = {name: tuple(weight.shape) for name, weight in model.glm.state_dict().items()}
    h = 4096
    expected = {"word_embeddings.weight": (50304, h), "transformer.position_embeddings.weight": (1025, h),
                "transformer.block_position_embeddings.weight": (1025, h),
                "transformer.final_layernorm.weight": (h,), "transformer.final_layernorm.bias": (h,)}
    for layer in range(48):
        for name, shape in {"input_layernorm": (h,), "attention.query_key_value": (3 * h, h), "attention.dense": (h, h),
                            "post_attention_layernorm": (h,), "mlp.dense_h_to_4h": (4 * h, h),
                            "mlp.dense_4h_to_h": (h, 4 * h)}.items():
            expected |= {f"transformer.layers.{layer}.{name}.weight": shape,
                         f"transformer.layers.{layer}.{name}.bias": shape[:1]}
    assert shapes == expected and len(shapes) == 581
    assert set(model.state_dict()) == {f"glm.{name}" for name in expected} | {"lm_head.weight"}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_saved_files_hold_the_581_keys_and_no_head(tmp_path):
    tiny(num_layers=48, hidden_size=4, num_attention_heads=1).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert len(names) == 581 and "lm_head.weight" not in names


def test_lora_adapts_192_layers_of_glm_10b():
    model = peft.get_peft_model(published("glm-10b"), peft.LoraConfig(r=8, target_modules=LORA_MODULES))
    trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    assert sum(weight.numel() for _, weight in trainable) == 25_165_824
    assert len(trainable) == 2 * 192 and all(".lora_" in name for name, _ in trainable)


@torch.no_grad()
def test_initialisation_scales_the_end_of_each_branch():
    torch.manual_seed(0)
    model = GLMForConditionalGeneration(GLMConfig(num_layers=8, hidden_size=128, num_attention_heads=4, vocab_size=500))
    for name, weight in model.named_parameters():
        if "layernorm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            scaled = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
            assert abs(float(weight.std()) / (0.02 / 4 if scaled else 0.02) - 1) < 0.05, name


def test_under_lora_only_adapters_get_gradients():
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=LORA_MODULES))
    tokens, positions = inputs()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):  # the first step leaves A alone, as B is zero
        optimizer.zero_grad()
        model(input_ids=tokens, position_ids=positions, attention_mask=torch.tensor([4, 0, 5]), labels=tokens,
              use_cache=False).loss.backward()
        assert all((weight.grad is not None) == (".lora_" in name) for name, weight in model.named_parameters())
        optimizer.step()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (".lora_" not in name), name


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing_gives_equal_gradients(dropout):
    tokens, positions = inputs()
    gradients = []
    for checkpointed in (False, True):
        model = tiny(embedding_dropout_prob=dropout, attention_dropout_prob=dropout,
                     output_dropout_prob=dropout).train()
        calls = []
        model.glm.transformer.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        model(tokens, positions, torch.tensor([4, 0, 5]), labels=tokens).loss.backward()
        assert len(calls) == 1 + checkpointed  # computed anew in the backward pass
        gradients.append([weight.grad for weight in model.parameters()])
    for plain, anew in zip(*gradients):
        assert torch.equal(plain, anew)


def test_what_training_runs_compiles_in_one_graph():
    model = tiny()
    (tokens, positions), sep = inputs(), torch.tensor([4, 0, 9])
    compiled = torch.compile(model.glm, backend="eager", fullgraph=True)
    assert torch.equal(compiled(tokens, positions, sep).last_hidden_state,
                       model.glm(tokens, positions, sep).last_hidden_state)


def test_dropout_acts_in_training_only():
    tokens, positions = inputs()
    for name in ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob"):
        model = tiny(**{name: 0.3})
        assert torch.equal(model(tokens, positions).logits, tiny()(tokens, positions).logits)
        model.train()
        assert not torch.equal(model(tokens, positions).logits, model(tokens, positions).logits)


# ------------------------------------------------------------------------------------------------------------ config

def test_the_config_has_the_published_fields_and_keeps_unknown_ones(tmp_path):
    config = GLMConfig(num_hidden_layers=3, num_attention_heads=8, some_later_field={"a": 1}, auto_map={"x": "y"})
    assert config.num_layers == config.num_hidden_layers == 3
    assert config.max_position_embeddings == config.max_sequence_length == 512
    assert (config.vocab_size, config.hidden_size, config.pool_token, config.attention_scale) == (30592, 1024, "cls", 1)
    config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["model_type"] == "glm" and raw["block_position_encoding"] is True and raw["num_layers"] == 3
    again = GLMConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() and again.some_later_field == {"a": 1}


@pytest.mark.parametrize("field, value", [("relative_encoding", True), ("block_position_encoding", False),
                                          ("hidden_act", "relu"), ("num_attention_heads", 5)])
def test_unpublished_variants_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field}: .*{value}"):
        GLMConfig(**{field: value})
