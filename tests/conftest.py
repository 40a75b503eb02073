"""What the tests share: tiny random language models, catalogues of title-like spellings, prompts of any length."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach the network

import hypothesis
import numpy as np
import pytest
import torch
from transformers import (BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration)

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.decoding.trie import Trie
from recbole_genrec.index import registry
from recbole_genrec.prompt import Batch

# The same examples everywhere and always; `HYPOTHESIS_PROFILE=explore` looks for new ones.
hypothesis.settings.register_profile("default", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

#: Token that ends every spelling made here; tokens below FIRST_WORD are never part of a title.
END, FIRST_WORD = 2, 10


def tiny_model(kind: str, vocab: int = 200, seed: int = 0):
    """A random two-layer model whose distributions are far from flat, so that its rankings have no near-ties."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=vocab, bos_token_id=1, eos_token_id=END, pad_token_id=0)
    rotary = dict(**shape, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**shape, n_embd=32, n_layer=2, n_head=4, n_positions=256,
                                           initializer_range=0.3, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    elif kind == "t5":
        # Titles reach beyond the largest distance that the model tells apart.
        model = T5ForConditionalGeneration(T5Config(**shape, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
                                                    decoder_start_token_id=0, dropout_rate=0,
                                                    relative_attention_num_buckets=8,
                                                    relative_attention_max_distance=8))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3) if weight.dim() > 1 else None
    elif kind == "bart":
        model = BartForConditionalGeneration(BartConfig(
            vocab_size=vocab, bos_token_id=1, eos_token_id=END, pad_token_id=0, decoder_start_token_id=END, d_model=32,
            encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128, dropout=0.0, init_std=0.3,
            scale_embedding=True, forced_eos_token_id=None))
        torch.nn.init.normal_(model.final_logits_bias)
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**rotary))
    else:
        model = LlamaForCausalLM(LlamaConfig(**rotary))
    return model.eval()


def random_spellings(count: int, seed: int = 0, vocab: int = 200) -> list[list[int]]:
    """``count`` different title-like sequences: skewed words, shared prefixes, one a prefix of another, END last."""
    rng = np.random.default_rng(seed)
    words = FIRST_WORD + np.minimum(rng.zipf(1.4, 100 * count + 1000), vocab - FIRST_WORD) - 1
    spellings: dict[tuple[int, ...], None] = {}
    while len(spellings) < count:
        stem: list[int] = []
        if spellings and rng.random() < 0.5:  # grow from the start of a title that is there
            known = list(spellings)[rng.integers(len(spellings))][:-1]
            stem = list(known[: rng.integers(1, len(known) + 1)])
        spellings[(*stem, *rng.choice(words, rng.integers(1, 7)).tolist(), END)] = None
    return [list(spelling) for spelling in spellings]


def trie_of(spellings: list[list[int]], items: list[int] | None = None) -> Trie:
    """The trie over token sequences of items 1, 2, ... (or of the given ids)."""
    offsets = np.concatenate([[0], np.cumsum([len(spelling) for spelling in spellings])])
    flat = np.array([token for spelling in spellings for token in spelling], dtype=np.int64)
    return Trie.build(flat, offsets, np.array(items or range(1, len(spellings) + 1)))


def batch_of(rows: list[list[int]]) -> Batch:
    """Token rows, padded on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return Batch(tokens, lengths, *(torch.zeros_like(tokens) for _ in range(3)))


def start(model, prompts: list[list[int]]):
    """The decoding state of a model after these prompts."""
    backbone = (Seq2SeqBackbone if model.config.is_encoder_decoder else CausalBackbone)(model)
    with torch.no_grad():
        return backbone.start(batch_of(prompts))


def random_prompts(users: int, seed: int = 0, vocab: int = 200, longest: int = 30) -> list[list[int]]:
    """Prompts of different lengths, from one token up."""
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(3, vocab, rng.integers(0, longest)).tolist()] for _ in range(users)]


@pytest.fixture(autouse=True)
def _few_threads():
    """The models are tiny: threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.autograd.set_detect_anomaly(False)  # a test may have imported RecBole's models by itself; see compat.py
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The working folder is one of the test's own."""
    monkeypatch.chdir(tmp_path)
    # RecBole's Config writes gpu_id into the environment; undone after each test.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))


@pytest.fixture
def no_index_stays(monkeypatch):
    """Item indexes that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_registered", {})
