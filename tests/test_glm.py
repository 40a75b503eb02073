"""The original GLM: its numbers against a slow reference, masks and caches, weights, training, configuration."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from glm_helpers import TINY, inputs, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import DynamicCache

from recbole_genrec.backbone.cache import growing_cache
from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration, additive_mask
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


@pytest.fixture(scope="module")
def model() -> GLMForConditionalGeneration:
    return tiny()


def published(name: str) -> GLMForConditionalGeneration:
    layers, hidden, heads, vocab, positions, _ = PUBLISHED[name]
    with torch.device("meta"):
        return GLMForConditionalGeneration(GLMConfig(num_layers=layers, hidden_size=hidden, num_attention_heads=heads,
                                                     vocab_size=vocab, max_sequence_length=positions))


def prefix(sep: list[int], length: int) -> torch.Tensor:
    """What ``[A | B]`` sees, bool ``[B, 1, T, T]``, cell by cell."""
    seen = [[[j <= i or j < a for j in range(length)] for i in range(length)] for a in sep]
    return torch.tensor(seen).unsqueeze(1)


def reference(model, tokens, positions, seen) -> torch.Tensor:
    """Logits by plain loops over samples and heads; ``seen`` is bool ``[B, heads, T, T]``."""
    w = {name.removeprefix("glm."): weight.float() for name, weight in model.state_dict().items()}
    config, results = model.config, []
    width = config.hidden_size // config.num_attention_heads

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def gelu(x):
        if config.hidden_act == "gelu_new":
            return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x ** 3)))
        return 0.5 * x * (1 + torch.erf(x / 2 ** 0.5))

    for row in range(len(tokens)):
        x = w["word_embeddings.weight"][tokens[row]]
        x = x + w["transformer.position_embeddings.weight"][positions[row, 0]]
        x = x + w["transformer.block_position_embeddings.weight"][positions[row, 1]]
        for layer in range(config.num_layers):
            name = f"transformer.layers.{layer}."
            q, k, v = linear(norm(x, name + "input_layernorm"), name + "attention.query_key_value").chunk(3, -1)
            heads = []
            for head in range(config.num_attention_heads):
                part = slice(head * width, (head + 1) * width)
                scores = q[:, part] @ k[:, part].T / width ** 0.5
                scores[~seen[row, head % seen.size(1)]] = -float("inf")
                heads.append(torch.softmax(scores, -1) @ v[:, part])
            x = x + linear(torch.cat(heads, -1), name + "attention.dense")
            inner = gelu(linear(norm(x, name + "post_attention_layernorm"), name + "mlp.dense_h_to_4h"))
            x = x + linear(inner, name + "mlp.dense_4h_to_h")
        results.append(norm(x, "transformer.final_layernorm") @ w["word_embeddings.weight"].T)
    return torch.stack(results)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ forward and masks

@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@torch.no_grad()
def test_forward_is_the_slow_reference(activation):
    model = tiny(hidden_act=activation)
    (tokens, positions), sep = inputs(), torch.tensor([4, 0, 9])
    close(model(tokens, positions, sep).logits, reference(model, tokens, positions, prefix(sep.tolist(), 9)))


@torch.no_grad()
def test_each_form_of_mask_is_the_slow_reference(model):
    tokens, positions = inputs()
    generator = torch.Generator().manual_seed(2)
    padding = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [0] * 2 + [1] * 7])
    for heads in (1, 4):
        own = torch.rand(3, heads, 9, 9, generator=generator) < 0.4
        own |= torch.eye(9, dtype=torch.bool)
        for mask in (own, own.long()):
            close(model(tokens, positions, mask).logits, reference(model, tokens, positions, own))
    shared = own[:1, :1]
    close(model(tokens, positions, shared).logits, reference(model, tokens, positions, shared.expand(3, 1, 9, 9)))
    for mask, seen in ((None, prefix([0] * 3, 9)), (torch.tensor(4), prefix([4] * 3, 9)),
                       (torch.tensor([6]), prefix([6] * 3, 9)), (torch.tensor([3, 1, 7]), prefix([3, 1, 7], 9)),
                       (padding, padding.bool()[:, None, None].expand(3, 1, 9, 9)),
                       (padding.float(), padding.bool()[:, None, None].expand(3, 1, 9, 9))):
        close(model(tokens, positions, mask).logits, reference(model, tokens, positions, seen))


@torch.no_grad()
def test_gelu_is_the_exact_one_unless_asked_otherwise():
    tokens, positions = inputs()
    assert GLMConfig().hidden_act == "gelu"
    assert (tiny()(tokens, positions).logits - tiny(hidden_act="gelu_new")(tokens, positions).logits).abs().max() > 1e-4


@torch.no_grad()
def test_default_positions_count_on_after_the_cache(model):
    tokens, _ = inputs()
    given_ids = torch.stack([torch.arange(9), torch.zeros(9).long()]).expand(3, 2, 9)
    expected = model(tokens, given_ids).logits
    assert torch.equal(model(tokens).logits, expected)
    cache = model(tokens[:, :4], use_cache=True).past_key_values
    for begin, end in ((4, 6), (6, 9)):
        close(model(tokens[:, begin:end], past_key_values=cache).logits, expected[:, begin:end])


@torch.no_grad()
def test_swapping_the_rows_of_positions_changes_logits(model):
    tokens, positions = inputs()
    assert (model(tokens, positions).logits - model(tokens, positions.flip(1)).logits).abs().max() > 0.1


@given(sep=st.integers(1, 8), column=st.integers(0, 8), seed=st.integers(0, 99))
@settings(max_examples=25)
@torch.no_grad()
def test_no_token_is_influenced_by_what_it_must_not_see(model, sep, column, seed):
    """Tokens of B reach neither A nor earlier tokens of B, not by a bit; tokens of A reach everything."""
    tokens, positions = inputs(1, 9, seed)
    changed, moved = tokens.clone(), positions.clone()
    changed[0, column] = (tokens[0, column] + 1) % TINY["vocab_size"]
    moved[0, :, column] = (positions[0, :, column] + 1) % TINY["max_sequence_length"]
    before = model.glm(tokens, positions, torch.tensor([sep])).last_hidden_state[0]
    after = model.glm(changed, moved, torch.tensor([sep])).last_hidden_state[0]
    unmoved = column if column >= sep else 0
    assert torch.equal(before[:unmoved], after[:unmoved])
    assert not (before[unmoved:] == after[unmoved:]).all(-1).any()


@torch.no_grad()
def test_padding_at_the_end_or_between_the_parts_changes_nothing(model):
    tokens, positions = inputs(1, 9)
    expected = model(tokens, positions, torch.tensor([5])).logits
    padding, nowhere = torch.full((1, 3), 7), torch.zeros(1, 2, 3).long()
    at_end = model(torch.cat([tokens, padding], 1), torch.cat([positions, nowhere], 2), torch.tensor([5])).logits
    close(at_end[:, :9], expected)
    seen = torch.zeros(12, 12, dtype=torch.bool)
    real = torch.tensor([0, 1, 2, 3, 4, 8, 9, 10, 11])
    seen[real.unsqueeze(1), real] = prefix([5], 9)[0, 0]
    between = model(torch.cat([tokens[:, :5], padding, tokens[:, 5:]], 1),
                    torch.cat([positions[..., :5], nowhere, positions[..., 5:]], 2), seen[None, None]).logits
    close(between[:, real], expected)
    assert between.isfinite().all()  # the padding's rows see nothing


@torch.no_grad()
def test_permuting_samples_permutes_outputs(model):
    (tokens, positions), sep, order = inputs(), torch.tensor([4, 0, 9]), torch.tensor([2, 0, 1])
    close(model(tokens[order], positions[order], sep[order]).logits, model(tokens, positions, sep).logits[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_and_rows_that_see_nothing_stay_finite(dtype):
    tokens, positions = inputs()
    model = tiny().to(dtype)
    assert (model(tokens, positions).logits.float() - tiny()(tokens, positions).logits).abs().max() < 1
    assert model(tokens, positions, torch.zeros(3, 1, 9, 9, dtype=torch.bool)).logits.isfinite().all()
    bias = additive_mask(torch.zeros(1, 1, 2, 2).bool(), 1, 2, 0, torch.zeros((), dtype=dtype))
    assert bias.dtype == dtype and (bias - 1000).isfinite().all()  # a score added to it does not overflow


@pytest.mark.parametrize("row, value", [(0, 41), (1, 41), (0, -1), (1, 100)])
def test_positions_outside_the_tables_are_refused(model, row, value):
    tokens, positions = inputs()
    positions[1, row, 3] = value
    with pytest.raises(UserError, match=f"position {value} .*0 to 40"):
        model(tokens, positions)
    with pytest.raises(UserError, match="position 41"):
        model(torch.zeros(1, 42).long())
    positions[1, row, 3] = 40
    model(tokens, positions)


@pytest.mark.parametrize("mask", [torch.ones(3, 8), torch.ones(3, 9, 9).long(), torch.ones(3, 1, 9, 8).long(),
                                  torch.zeros(3, 1, 9, 9), torch.tensor([1, 2]), torch.ones(2, 1, 9, 9).bool()])
def test_masks_of_another_shape_and_additive_ones_are_refused(model, mask):
    with pytest.raises(ValueError):
        model(*inputs(), mask)


@pytest.mark.parametrize("shape", [(3, 9), (3, 9, 2), (3, 2, 8)])
def test_positions_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match="position_ids"):
        model(inputs()[0], torch.zeros(shape).long())


def test_labels_are_not_shifted_and_only_those_that_count_do(model):
    (tokens, positions), labels = inputs(), torch.full((3, 9), -100)
    labels[0, 4], labels[2, 8] = 11, 12
    output = model(tokens, positions, torch.tensor([4, 0, 9]), labels=labels)
    logp = output.logits.log_softmax(-1)
    close(output.loss, -(logp[0, 4, 11] + logp[2, 8, 12]) / 2)
    assert model(tokens, positions).loss is None
    nothing = model(tokens, positions, labels=torch.full((3, 9), -100)).loss
    nothing.backward()
    assert nothing.item() == 0 and all(weight.grad.isfinite().all() for weight in model.parameters())
    model.zero_grad()


# ----------------------------------------------------------------------------------------------------------- caches

CACHES = {"dynamic": DynamicCache, "growing": growing_cache}


@pytest.mark.parametrize("kind", CACHES)
@given(sep=st.integers(1, 8), cuts=st.sets(st.integers(1, 8)), seed=st.integers(0, 99))
@settings(max_examples=15)
@torch.no_grad()
def test_cached_is_uncached_at_every_boundary(model, kind, sep, cuts, seed):
    """A in one piece, B in pieces of any size, under a prefix length and under the same as a 4-d mask."""
    tokens, positions = inputs(2, 9, seed)
    seen = prefix([sep, sep], 9)
    expected = model(tokens, positions, seen).logits
    bounds = [0, *sorted(cut for cut in cuts | {sep} if cut >= sep), 9]
    for four_d in (False, True):
        cache = CACHES[kind]()
        pieces = []
        for begin, end in zip(bounds, bounds[1:]):
            mask = seen[:, :, begin:end, :end].long() if four_d else torch.tensor([sep, sep])
            output = model(tokens[:, begin:end], positions[..., begin:end], mask, past_key_values=cache)
            assert output.past_key_values is cache and cache.get_seq_length() == end
            pieces.append(output.logits)
        close(torch.cat(pieces, 1), expected)


@torch.no_grad()
def test_cached_is_uncached_for_causal_and_padded_sequences(model):
    tokens, positions = inputs()
    padding = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 9])
    for mask in (None, padding):
        cache, causal = growing_cache(), prefix([0] * 3, 9)
        whole = causal if mask is None else causal & padding.bool()[:, None, None]
        expected = model(tokens, positions, whole).logits
        for step in range(9):
            real = [0, 1, 2] if mask is None or padding[1, step] else [0, 2]  # padding itself sees nothing
            got = model(tokens[:, step:step + 1], positions[..., step:step + 1],
                        None if mask is None else mask[:, :step + 1], past_key_values=cache).logits
            close(got[real, 0], expected[real, step])


@pytest.mark.parametrize("kind, reorder", [("dynamic", "reorder_cache"), ("dynamic", "batch_select_indices"),
                                           ("growing", "batch_select_indices")])
@torch.no_grad()
def test_reordered_beams_are_uncached_sequences(model, kind, reorder):
    """A once for two users, then four tokens of three beams each, gathered by parents before every step."""
    generator = torch.Generator().manual_seed(3)
    tokens, positions = inputs(2, 5)
    cache = CACHES[kind]()
    model(tokens, positions, torch.tensor([5, 5]), past_key_values=cache)
    rows = torch.arange(2).repeat_interleave(3)
    cache.batch_select_indices(rows)
    tokens, positions = tokens[rows], positions[rows]
    for step in range(4):
        parents = torch.randint(0, 3, (6,), generator=generator) + 3 * rows
        getattr(cache, reorder)(parents)
        new = torch.randint(0, TINY["vocab_size"], (6, 1), generator=generator)
        place = torch.randint(0, TINY["max_sequence_length"], (6, 2, 1), generator=generator)
        got = model(new, place, torch.full((6,), 5), past_key_values=cache).logits
        tokens, positions = torch.cat([tokens[parents], new], 1), torch.cat([positions[parents], place], 2)
        close(got[:, 0], model(tokens, positions, torch.full((6,), 5)).logits[:, -1])


@torch.no_grad()
def test_candidates_as_branches_are_candidates_one_by_one(model):
    """Branches of B that do not see each other, all pushed at once after one A."""
    tokens, positions = inputs(1, 5)
    cache = growing_cache()
    model(tokens, positions, torch.tensor([5]), past_key_values=cache)
    branches, places = inputs(4, 3, seed=8)
    seen = torch.cat([torch.ones(12, 5), torch.block_diag(*[torch.ones(3, 3).tril()] * 4)], 1).bool()
    got = model(branches.view(1, 12), places.transpose(0, 1).reshape(1, 2, 12), seen[None, None],
                past_key_values=cache).logits.view(4, 3, -1)
    for branch in range(4):
        alone = model(torch.cat([tokens, branches[branch:branch + 1]], 1),
                      torch.cat([positions, places[branch:branch + 1]], 2), torch.tensor([5])).logits[0, 5:]
        close(got[branch], alone)


# ------------------------------------------------------------------------------------------- weights, init, training

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


def test_what_training_runs_compiles_in_one_graph(model):
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
