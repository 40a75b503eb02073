"""The original GLM (Du et al., ACL 2022): blank infilling with two-dimensional positions and a prefix that sees itself.

A sequence is ``[A | B]``: A is a text whose spans are replaced by mask tokens and sees all of A; B spells the spans and
sees A and B up to itself. Each token has two learned absolute positions: *inter* (its place in A; for B that of its
mask) and *intra* (0 in A, 1, 2, ... within a span). The layout of weights is that of the published checkpoints, so that
they load without code from the hub. GLM-4 and ChatGLM are other architectures, although they share the name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput

from recbole_genrec.errors import UserError

#: gelu (erf) is what the published transformers code computes; gelu_new (tanh) is what the weights were trained with.
ACTIVATIONS = ("gelu", "gelu_new")


class GLMConfig(PreTrainedConfig):
    """Sizes of a GLM, by the names of the published ``config.json``; fields that are not known here are kept.

    ``model_type`` is the published one. transformers gives it to GLM-4, hence this class is not registered with
    ``AutoConfig``: read a folder with :func:`recbole_genrec.backbone.glm_checkpoint.load_glm`.

    Attributes:
        max_sequence_length: largest inter and intra position; both tables have one row more.
        hidden_act: ``gelu`` or ``gelu_new`` (see ``ACTIVATIONS``).
        attention_scale, parallel_output, checkpoint_*, output_predict, spell_*, pool_token: kept for the round trip.
            ``attention_scale`` rescales for the range of fp16 only, which leaves the result as it is.
    Raises:
        UserError: a variant that was never published (relative positions, or one position per token), heads that do not
            divide ``hidden_size``, or another activation.
    """

    model_type = "glm"
    attribute_map = {"num_hidden_layers": "num_layers", "max_position_embeddings": "max_sequence_length"}
    keys_to_ignore_at_inference = ["past_key_values"]

    num_layers: int = 24
    vocab_size: int = 30592
    hidden_size: int = 1024
    num_attention_heads: int = 16
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.1
    output_dropout_prob: float = 0.1
    max_sequence_length: int = 512
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    checkpoint_activations: bool = False
    checkpoint_num_layers: int = 1
    parallel_output: bool = True
    relative_encoding: bool = False
    block_position_encoding: bool = True
    output_predict: bool = False
    spell_length: int | None = None
    spell_func: str = "lstm"
    attention_scale: float = 1.0
    pool_token: str = "cls"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.relative_encoding:
            raise UserError(f"relative_encoding: {self.relative_encoding} is not supported: "
                            "every published GLM has absolute positions")
        if not self.block_position_encoding:
            raise UserError(f"block_position_encoding: {self.block_position_encoding} is not supported: "
                            "every published GLM has two positions per token")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"num_attention_heads: {self.num_attention_heads} heads do not divide "
                            f"hidden_size {self.hidden_size}")
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(f"hidden_act: '{self.hidden_act}' is none of {', '.join(ACTIVATIONS)}")


@dataclass
class GLMOutput(ModelOutput):
    """What :class:`GLMForConditionalGeneration` returns.

    Attributes:
        loss: scalar fp32, or None without labels.
        logits: ``[B, T, V]``.
        past_key_values: the cache, or None if there is none.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None


class GLMAttention(nn.Module):
    """Multi-head self-attention; the rows of ``query_key_value`` are three thirds Q, K, V, each then split by head."""

    def __init__(self, config: GLMConfig, number: int):
        super().__init__()
        self.number, self.heads = number, config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense.ends_branch = True
        self.dropout = config.attention_dropout_prob

    def forward(self, hidden: Tensor, bias: Tensor | None, cache: Cache | None) -> Tensor:
        """``[B, Q, H]`` -> ``[B, Q, H]``; without a bias each token sees those before it."""
        heads = self.query_key_value(hidden).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.update(key, value, self.number)
        mixed = F.scaled_dot_product_attention(query, key, value, bias, self.dropout if self.training else 0.0,
                                               is_causal=bias is None and query.size(2) > 1)
        return self.dense(mixed.transpose(1, 2).flatten(2))


class GLMMLP(nn.Module):
    def __init__(self, config: GLMConfig):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dense_4h_to_h = nn.Linear(4 * config.hidden_size, config.hidden_size)
        self.dense_4h_to_h.ends_branch = True

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(hidden)))


class GLMLayer(GradientCheckpointingLayer):
    """A pre-LN block."""

    def __init__(self, config: GLMConfig, number: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.attention = GLMAttention(config, number)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=1e-5)
        self.mlp = GLMMLP(config)
        self.dropout = nn.Dropout(config.output_dropout_prob)

    def forward(self, hidden: Tensor, bias: Tensor | None, past_key_values: Cache | None = None) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.input_layernorm(hidden), bias, past_key_values))
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden)))


class GLMTransformer(nn.Module):
    """Both position tables, the layers, and the last norm: what the checkpoints call ``transformer``."""

    def __init__(self, config: GLMConfig):
        super().__init__()
        rows = config.max_sequence_length + 1
        self.position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.block_position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(GLMLayer(config, number) for number in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=1e-5)

    def forward(self, hidden: Tensor, positions: Tensor, bias: Tensor | None, cache: Cache | None) -> Tensor:
        inter, intra = positions.unbind(1)
        hidden = self.dropout(hidden + self.position_embeddings(inter) + self.block_position_embeddings(intra))
        for layer in self.layers:
            hidden = layer(hidden, bias, past_key_values=cache)
        return self.final_layernorm(hidden)


class GLMPreTrainedModel(PreTrainedModel):
    config_class = GLMConfig
    base_model_prefix = "glm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["GLMLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, std), zero biases; the last matrix of each residual branch with std / sqrt(2 layers), as Megatron."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding)):
            depth = 2 * self.config.num_layers if getattr(module, "ends_branch", False) else 1
            init.normal_(module.weight, std=std / depth ** 0.5)
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)


class GLMModel(GLMPreTrainedModel):
    """GLM without the vocabulary's logits."""

    def __init__(self, config: GLMConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = GLMTransformer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                past_key_values: Cache | None = None, use_cache: bool = False) -> BaseModelOutputWithPast:
        """Run ``T`` new tokens after the ``P`` of the cache.

        Args:
            input_ids: int64 ``[B, T]``.
            position_ids: int64 ``[B or 1, 2, T]``, inter and intra in ``0..max_sequence_length``; None: inter counts on
                after the cache, intra is 0.
            attention_mask: what sees what, by its number of dimensions. None: causal. 0 or 1 (one number, or ``[B]``):
                the length of the prefix that all tokens see, the rest is causal. 2, ``[B, P + T]`` of 0/1: keys that
                are no padding, seen by all. 4, bool or integer 0/1 ``[B or 1, 1 or heads, T, P + T]``: as it says.
            past_key_values: any cache of transformers; it grows by ``T``.
            use_cache: make a cache if there is none.
        Returns:
            ``last_hidden_state`` ``[B, T, H]`` and ``past_key_values``.
        Raises:
            UserError: a position outside the tables.
            ValueError: a mask or positions of another shape.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        count = input_ids.size(1)
        if position_ids is None:
            inter = torch.arange(past, past + count, device=input_ids.device)
            position_ids = torch.stack([inter, torch.zeros_like(inter)]).unsqueeze(0)
        self._check_positions(position_ids, count)
        hidden = self.word_embeddings(input_ids)
        # Causal attention of all to all needs no mask, nor does one token that sees everything before it.
        plain = attention_mask is None and (past == 0 or count == 1)
        bias = None if plain else additive_mask(attention_mask, *input_ids.shape, past, hidden)
        states = self.transformer(hidden, position_ids, bias, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=past_key_values)

    def _check_positions(self, position_ids: Tensor, count: int) -> None:
        if position_ids.dim() != 3 or position_ids.shape[1:] != (2, count):
            raise ValueError(f"position_ids must be [batch, 2, {count}], not {list(position_ids.shape)}")
        # Compiled code keeps torch's own check of indices; a look at the values would break its graph.
        # A GPU would have to be waited for, each time; it has a check of its own.
        if position_ids.device.type != "cpu" or torch.compiler.is_compiling() or not position_ids.numel():
            return
        limit = self.config.max_sequence_length
        low, high = (int(value) for value in torch.stack(position_ids.aminmax()))
        if low < 0 or high > limit:
            raise UserError(f"position {low if low < 0 else high} is outside this GLM's tables (0 to {limit}): "
                            "use shorter texts or a larger max_sequence_length")


class GLMForConditionalGeneration(GLMPreTrainedModel):
    """GLM with logits by the tied embedding table; ``lm_head`` is that table under a second name and never saved."""

    _tied_weights_keys = {"lm_head.weight": "glm.word_embeddings.weight"}

    def __init__(self, config: GLMConfig):
        super().__init__(config)
        self.glm = GLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.glm.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.glm.word_embeddings = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                labels: Tensor | None = None, past_key_values: Cache | None = None,
                use_cache: bool = False) -> GLMOutput:
        """As :meth:`GLMModel.forward`, with logits and the loss.

        Args:
            labels: int64 ``[B, T]``; ``labels[:, i]`` is what position ``i`` must predict (they are *not* shifted here,
                as Hugging Face's causal models do), -100 where nothing is asked.
        Returns:
            logits; mean cross-entropy over the labels that count (0 if none does); the cache.
        """
        output = self.glm(input_ids, position_ids, attention_mask, past_key_values, use_cache)
        logits = self.lm_head(output.last_hidden_state)
        loss = None
        if labels is not None:
            total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
            loss = total / (labels != -100).sum().clamp(min=1)
        return GLMOutput(loss=loss, logits=logits, past_key_values=output.past_key_values)


def additive_mask(mask: Tensor | None, batch: int, count: int, past: int, like: Tensor) -> Tensor:
    """What is added to attention scores, ``[B or 1, 1 or heads, T, P + T]``, from any form of mask.

    Finite, so that rows that see nothing (padding) stay finite; half of the type's range, so that a score added to it
    does not overflow in fp16.

    Args:
        mask: see :meth:`GLMModel.forward`.
        count: ``T``, the new tokens.
        past: ``P``, the cached ones.
        like: the result's dtype and device.
    Raises:
        ValueError: a mask of another shape, or one that is additive already (its zeros would be read as "hidden").
    """
    keys = past + count
    if mask is None or mask.dim() < 2:
        column = torch.arange(keys, device=like.device)
        seen = (column <= column[past:, None])[None]
        if mask is not None:
            if mask.numel() not in (1, batch):
                raise ValueError(f"a prefix length for each of {batch} rows is needed, not {mask.numel()}")
            seen = seen | (column < mask.to(like.device).view(-1, 1, 1))
        seen = seen[:, None]
    elif mask.dim() == 2:
        if mask.shape != (batch, keys):
            raise ValueError(f"a padding mask must be [{batch}, {keys}], not {list(mask.shape)}")
        seen = (mask != 0)[:, None, None].expand(-1, -1, count, -1)
    else:
        if mask.dim() != 4 or mask.shape[2:] != (count, keys) or mask.size(0) not in (1, batch):
            raise ValueError(f"a mask of {mask.dim()} dimensions must be [{batch}, heads, {count}, {keys}], "
                             f"not {list(mask.shape)}")
        if mask.is_floating_point():
            raise ValueError(f"a 4-d mask must be bool or integer 0/1, not {mask.dtype}")
        seen = mask != 0
    lowest = torch.finfo(like.dtype).min / 2
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, lowest)
