"""The original GLM: its numbers against a slow reference, masks and caches."""

from __future__ import annotations

import pytest
import torch
from glm_helpers import TINY, inputs, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from recbole_genrec.backbone.cache import growing_cache
from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration, additive_mask
from recbole_genrec.errors import UserError


@pytest.fixture(scope="module")
def model() -> GLMForConditionalGeneration:
    return tiny()


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
