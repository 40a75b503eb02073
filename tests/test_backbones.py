"""Backbones from folders in Hugging Face's format, LoRA, the guard against unknown architectures, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import batch_of, random_prompts, tiny_model
from data_helpers import config_of, random_interactions, write_dataset
from transformers import MistralConfig, MistralForCausalLM, T5Config, T5ForConditionalGeneration

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.items import ItemReader
from recbole_genrec.backbone.loading import compute_dtype, load_backbone, resolve
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.data.loading import Data
from recbole_genrec.errors import UserError
from recbole_genrec.model.sequential_recommender.genrec import GenRec
from recbole_genrec.settings import property_names

KINDS = ["llama", "gpt2", "qwen2"]
TITLES = [f"The i{n} story" for n in range(30)]
SETTINGS = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": None, "precision": "fp32",
            "trust_remote_code": False, "gradient_checkpointing": False, "torch_compile": False,
            "train_block_positions": False, "device": torch.device("cpu")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint in shards and a tokenizer, for each architecture."""
    result = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("hub") / kind
        tokenizer = train_tokenizer([*TITLES, "\n"], 400)
        tiny_model(kind, vocab=len(tokenizer)).save_pretrained(folder, max_shard_size="20KB")
        tokenizer.save_pretrained(folder)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
        result[kind] = folder
    return result


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(30, 30, 5, 9))


def refused(llm, **settings) -> str:
    """The one-line message with which a backbone is refused."""
    with pytest.raises(UserError) as caught:
        load_backbone({**SETTINGS, "llm": llm, **settings}, TITLES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [*KINDS, "t5", "bart"])
def test_bytes_per_token_are_those_of_the_cache(kind):
    model, tokens = tiny_model(kind), torch.full((1, 7), 11)
    if kind == "t5":  # heads that are not as wide as the model, and a decoder that is not as deep as the encoder
        model = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=16, d_kv=24, d_ff=16, num_layers=1,
                                                    num_decoder_layers=3, num_heads=2))
    if kind in KINDS:
        caches = [model(tokens, use_cache=True).past_key_values]
    else:
        both = model(tokens, decoder_input_ids=tokens, use_cache=True).past_key_values
        caches = [both.self_attention_cache, both.cross_attention_cache]
    held = sum(layer.keys.nbytes + layer.values.nbytes for cache in caches for layer in cache.layers)
    backbone = CausalBackbone(model) if kind in KINDS else Seq2SeqBackbone(model)
    assert backbone.bytes_per_token * tokens.numel() == held


def test_what_is_not_compiled_is_refused():
    assert "torch_compile=true" in refused("tiny-t5", torch_compile=True)


# ------------------------------------------------------------------------------------------------------- loading

@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_loaded_and_only_adapters_train(folders, kind):
    loaded = load_backbone({**SETTINGS, "llm": str(folders[kind])}, [])
    assert loaded.pretrained
    trainable = {name for name, weight in loaded.backbone.named_parameters() if weight.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    if kind != "gpt2":  # the paper's choice, where the architecture has it
        assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trainable} == {"q_proj", "v_proj"}
    # Untrained adapters change nothing: the model is that of the folder.
    tokens = torch.tensor([[5, 6, 7, 8]])
    original = tiny_model(kind, vocab=loaded.backbone.core.config.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(loaded.backbone.core(tokens).logits, original(tokens).logits)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(TITLES[3])) == TITLES[3]


def test_lora_goes_where_it_is_told(folders):
    for targets in ("down_proj", ["down_proj"]):
        loaded = load_backbone({**SETTINGS, "llm": str(folders["llama"]), "lora_target_modules": targets}, [])
        names = [name for name, weight in loaded.backbone.named_parameters() if weight.requires_grad]
        assert len(names) == 4 and all(".down_proj.lora_" in name for name in names)


@pytest.mark.parametrize("targets", ["qproj", ["q_proj", "nonsense"]])
def test_a_wrong_lora_module_is_named(folders, targets):
    message = refused(str(folders["llama"]), lora_target_modules=targets)
    assert "lora_target_modules" in message and ("qproj" in message or "nonsense" in message)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert str(tmp_path) in refused(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert str(tmp_path) in refused(str(tmp_path))


def test_a_folder_without_weights_or_with_pickled_ones_only_is_refused(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())
    assert str(tmp_path) in refused(str(tmp_path))
    torch.save(tiny_model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    assert str(tmp_path) in refused(str(tmp_path))


def test_a_misspelt_name_is_corrected():
    assert "did you mean 'tiny-llama'" in refused("tiny-lama")
    assert "somebody/no-such-model" in refused("somebody/no-such-model")


def test_a_scratch_backbone_trains_every_weight():
    loaded = load_backbone({**SETTINGS, "llm": "tiny-llama"}, TITLES)
    assert not loaded.pretrained and all(weight.requires_grad for weight in loaded.backbone.parameters())
    assert loaded.backbone.core.config.vocab_size == len(loaded.tokenizer)
    loaded.backbone.check()


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_what_was_asked_for(precision, dtype):
    assert compute_dtype({**SETTINGS, "precision": precision}, True) == dtype


@pytest.mark.parametrize("name", [name for name in property_names("backbone")
                                  if isinstance(found := resolve(name), dict) and found["kind"] == "causal"])
def test_a_reader_of_items_knows_those_before_and_neither_those_after_nor_the_padding(name):
    torch.manual_seed(0)
    reader = ItemReader(resolve(name)["config"], 30).eval()
    history = torch.randint(1, 30, (2, 9))
    states = reader(history)
    padded = torch.nn.functional.pad(history[:, :5], (0, 2))
    torch.testing.assert_close(reader(padded)[:, :5], states[:, :5])
    changed = history.clone()
    changed[:, 0] = changed[:, 0] % 29 + 1
    assert not torch.allclose(reader(changed)[:, 8], states[:, 8], atol=1e-3)
    assert reader.items.logits(states[:, -1]).shape == (2, 30)


@pytest.mark.parametrize("pretrained, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bf16_on_a_cpu_that_has_it_for_pretrained_models_only(pretrained, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    settings = {**SETTINGS, "precision": "auto", "device": torch.device("cpu")}
    assert compute_dtype(settings, pretrained) == dtype


# --------------------------------------------------------------------------------------------------- the guard

@pytest.mark.parametrize("kind", KINDS)
def test_the_guard_passes_what_can_be_decoded_and_keeps_the_mode(kind):
    backbone = CausalBackbone(tiny_model(kind)).train()
    backbone.check()
    assert backbone.training and backbone.model.training


def test_the_guard_refuses_logits_scaled_in_an_unknown_way(monkeypatch):
    model = tiny_model("llama")
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    monkeypatch.setattr(model, "forward", scaled)
    with pytest.raises(UserError, match="LlamaForCausalLM"):
        CausalBackbone(model).check()


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_the_guard_refuses_a_model_that_ignores(monkeypatch, ignored):
    model = tiny_model("llama")
    forward = model.base_model.forward

    def careless(*args, **kwargs):
        if torch.is_tensor(kwargs.get("position_ids")):  # a step on the tree, not a plain pass
            kwargs[ignored] = None
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.base_model, "forward", careless)
    with pytest.raises(UserError, match="cannot be decoded"):
        CausalBackbone(model).check()


# ------------------------------------------------------------------------------------------------ the interface

@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_and_logits_are_the_models_own(kind):
    model, prompts = tiny_model(kind), random_prompts(5)
    backbone, batch = CausalBackbone(model), batch_of(prompts)
    with torch.no_grad():
        logits = backbone.logits(backbone.hidden_states(batch))
        for row, prompt in enumerate(prompts):
            expected = model(torch.tensor([prompt])).logits[0]
            torch.testing.assert_close(logits[row, : len(prompt)], expected, atol=1e-4, rtol=1e-4)
        first = backbone.start(batch)
        assert torch.allclose(first.logits(first.hidden), logits[torch.arange(5), batch.lengths - 1], atol=1e-4)


def test_pushed_tokens_can_be_forgotten_and_users_dropped():
    model, prompts = tiny_model("llama"), random_prompts(4)
    tokens, sees, depth = torch.tensor([[5, 6]] * 4), torch.eye(2, dtype=torch.bool)[None], torch.zeros(1, 2).long()
    with torch.no_grad():
        state = CausalBackbone(model).start(batch_of(prompts))
        first = state.push(tokens, sees, depth)
        state.forget()
        torch.testing.assert_close(state.push(tokens, sees, depth), first)
        state.forget()
        state.select(torch.tensor([3, 1]))
        torch.testing.assert_close(state.push(tokens[:2], sees, depth), first[[3, 1]], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- end to end

def trained(dataset: Path, llm: str, steps: int = 3):
    """A GenRec after some steps, and a batch of test users."""
    model, data = untrained(dataset, llm)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.05)
    interaction = data.parts[0].inter_feat[torch.arange(16)]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.calculate_loss(interaction)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    return model.eval(), data.parts[2].inter_feat[torch.arange(8)]


def untrained(dataset: Path, llm: str):
    config = config_of(dataset, "GenRec", llm=llm, precision="fp32", gpu_id="", num_beams=10, lora_dropout=0.0,
                       max_prompt_tokens=180)
    data = Data.load(config)
    torch.manual_seed(1)
    return GenRec(config, data.parts[0]).eval(), data


@pytest.mark.parametrize("kind", [*KINDS, "scratch"])
def test_a_saved_model_scores_the_same_when_loaded(folders, dataset, tmp_path, kind):
    llm = "tiny-llama" if kind == "scratch" else str(folders[kind])
    model, test = trained(dataset, llm)
    scores = model.full_sort_predict(test)
    model.save_pretrained(tmp_path / "model")

    other, _ = untrained(dataset, llm)
    assert not torch.equal(other.full_sort_predict(test), scores)
    other.load_pretrained(tmp_path / "model")
    assert torch.equal(other.full_sort_predict(test), scores)
    assert torch.equal(other.predict(test), model.predict(test))

    written = {path.name: path.stat().st_size for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in written)
    if kind == "scratch":
        assert "model.safetensors" in written
    else:
        base = sum(path.stat().st_size for path in folders[kind].glob("*.safetensors"))
        assert "model.safetensors" not in written and written["adapter_model.safetensors"] < base / 4


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_are_log_probabilities_of_the_decoded_items(folders, dataset, kind):
    model, test = trained(dataset, str(folders[kind]))
    scores = model.full_sort_predict(test).view(len(test), model.n_items)
    decoded = scores > -torch.inf
    assert (decoded.sum(1) == model.topk).all() and not decoded[:, 0].any() and (scores[decoded] <= 0).all()
    # predict() scores one given item a row under the same model, whole vocabulary and all.
    model.config["norm"], model.config["decode"] = "full", "exact_all"
    exact = model.full_sort_predict(test).view(len(test), model.n_items)
    best = exact.argmax(1)
    test.interaction[model.ITEM_ID] = best
    torch.testing.assert_close(model.predict(test), exact.max(1).values, atol=1e-4, rtol=1e-4)


def test_a_window_shorter_than_the_prompts_is_refused(dataset, tmp_path):
    """Sliding windows are not known to masks of our own: scores would be wrong without an error."""
    tokenizer = train_tokenizer([*TITLES, "\n"], 400)
    tokenizer.save_pretrained(tmp_path)
    MistralForCausalLM(MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=64)).save_pretrained(tmp_path)
    settings = {"llm": str(tmp_path), "gpu_id": ""}
    with pytest.raises(UserError, match="looks back 64 tokens"):
        config = config_of(dataset, "GenRec", max_prompt_tokens=100, **settings)
        GenRec(config, Data.load(config).parts[0])
    config = config_of(dataset, "GenRec", max_prompt_tokens=40, **settings)
    assert GenRec(config, Data.load(config).parts[0]).prompts.max_tokens < 64


def test_genrec_refuses_an_encoder_decoder(dataset):
    with pytest.raises(UserError, match="tiny-t5 is a seq2seq backbone, and GenRec needs a causal one"):
        GenRec.check_config(config_of(dataset, "GenRec", llm="tiny-t5", gpu_id=""))


def test_a_prompt_longer_than_the_model_takes_is_refused(folders, dataset):
    config = config_of(dataset, "GenRec", llm=str(folders["llama"]), max_prompt_tokens=1000, num_beams=10, gpu_id="")
    with pytest.raises(UserError, match="256 tokens"):
        GenRec(config, Data.load(config).parts[0])
