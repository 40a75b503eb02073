"""A Hugging Face decoder-only model behind the narrow interface of training and decoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from recbole_genrec.backbone.base import Backbone
from recbole_genrec.backbone.blocks import NAME as BLOCKS
from recbole_genrec.backbone.blocks import seen_by_block
from recbole_genrec.backbone.cache import additive, growing_cache, keep
from recbole_genrec.backbone.head import pick
from recbole_genrec.prompt import Batch, BranchedBatch


class CausalBackbone(Backbone):
    """Any ``AutoModelForCausalLM``."""

    kind = "causal"
    auto = AutoModelForCausalLM
    lora_targets = ("q_proj", "v_proj")
    lora_task = "CAUSAL_LM"
    answers_take_positions = True

    @classmethod
    def scratch(cls, settings: dict) -> nn.Module:
        # Rotary positions cost nothing, so the limit is only a number; prompts are bounded by max_prompt_tokens.
        return super().scratch({"max_position_embeddings": 8192, **settings})

    def __init__(self, model: nn.Module):
        super().__init__(model)
        #: Whether the model attends by torch's function through transformers' interface, so that ours can stand in.
        self.blocks = model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation()

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was made for, or None if it does not say."""
        return getattr(self.core.config, "max_position_embeddings", None)

    @property
    def window(self) -> int | None:
        """Tokens that sliding-window layers look back, or None; our own masks know no window."""
        config = self.core.config
        return getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values."""
        config = self.core.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * wide * self.core.dtype.itemsize

    def hidden_states(self, batch: Batch) -> Tensor:
        """``[B, T, d]`` last hidden states; the language-model head is left to :meth:`logits`, where it is needed."""
        if not isinstance(batch, BranchedBatch):
            # Causal attention never looks at padding on the right, and without a mask it skips half of the work.
            return self._layers(**self.inputs(batch), use_cache=False).last_hidden_state
        own = torch.eye(batch.tokens.size(1), dtype=torch.bool, device=batch.tokens.device)  # padding sees itself
        seen = (batch.visible & batch.mask.unsqueeze(1)) | own
        layout = {"attention_mask": additive(seen.unsqueeze(1), self.core.dtype), "position_ids": batch.position}
        if self.core.config._attn_implementation == BLOCKS:
            layout["keys"] = seen_by_block(seen)
        return self._layers(**self.inputs(batch), use_cache=False, **layout).last_hidden_state

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model is given for the tokens of prompts."""
        return {"input_ids": batch.tokens}

    def train(self, mode: bool = True) -> "CausalBackbone":
        """As in ``nn.Module``; in training, attention under a sparse mask goes block by block."""
        if self.blocks:
            self.core.set_attn_implementation(BLOCKS if mode else "sdpa")
        return super().train(mode)

    def _layers(self, **inputs):
        """Everything below the head, as training runs it (see :meth:`compile_layers`)."""
        return self.core.base_model(**inputs)

    def compile_layers(self) -> None:
        """Let torch compile what training runs; decoding, whose shapes change with every step, stays as it is."""
        self._layers = torch.compile(self._layers, dynamic=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]``."""
        return self._scaled(self.core.get_output_embeddings()(hidden))

    def _scaled(self, logits: Tensor) -> Tensor:
        """Logits with what some architectures do to them after the head; each on its own."""
        config = self.core.config
        if getattr(config, "logit_scale", None):         # Cohere
            logits = logits * config.logit_scale
        if getattr(config, "logits_scaling", None):      # Granite
            logits = logits / config.logits_scaling
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return torch.tanh(logits / cap) * cap if cap else logits

    def logits_at(self, hidden: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """``[R, d]`` states -> ``[M]`` logits of single tokens: ``token[m]`` after state ``row[m]`` (ascending)."""
        return pick(self.core.get_output_embeddings(), self._scaled, self.core.config.vocab_size, hidden, row, token)

    def start(self, prompts: Batch) -> "CausalState":
        """Run the prompts once and keep their keys and values."""
        return CausalState(self, prompts)

    @torch.no_grad()
    def check(self) -> None:
        """Compare our step interface with the model's own forward pass on a few tokens.

        Guards against architectures that ignore 4-D masks or position ids, or scale their logits in a way that
        we do not know: they would decode wrong lists without an error.

        Raises:
            UserError: the two differ.
        """
        device = next(self.parameters()).device
        tokens = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 8, 9, 10]], device=device)
        training = self.training
        self.eval()
        expected = self.core(input_ids=tokens, use_cache=False).logits[:, 3:]
        # The shorter prompt is padded, a decoy stands in the tree: neither may be seen.
        padded = torch.nn.functional.pad(tokens[:, :3], (0, 2))
        prompts = Batch(padded, torch.full((2,), 3, device=device), padded, padded, torch.zeros_like(padded))
        state = CausalState(self, prompts)
        pushed = torch.stack([tokens[:, 3], tokens[:, 0], tokens[:, 4], tokens[:, 5]], 1)
        visible = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], device=device).bool()
        hidden = state.push(pushed, visible[None], torch.tensor([[0, 0, 1, 2]], device=device))
        self._refuse_unless_equal(hidden[:, [0, 2, 3]], expected)
        self.train(training)


class CausalState:
    """Prompts of ``B`` users in a key-value cache, and the tokens pushed after them (see ``DecodingState``)."""

    prior = None

    def __init__(self, backbone: CausalBackbone, prompts: Batch):
        self.backbone = backbone
        self.mask, self.lengths = prompts.mask, prompts.lengths
        self.cache = growing_cache()
        hidden = []
        groups = prompts.groups()
        for rows in groups:
            part, cache = prompts.rows(rows), growing_cache()
            states = self._read(part, cache)
            hidden.append(states[torch.arange(len(rows), device=rows.device), part.lengths - 1])
            keep(self.cache, cache, rows, prompts.tokens.shape)
        self.hidden = torch.cat(hidden)[torch.cat(groups).argsort()]
        self.logits, self.logits_at = backbone.logits, backbone.logits_at

    def _read(self, prompts: Batch, cache: Cache) -> Tensor:
        """``[b, T, d]`` states of some prompts, whose keys and values go into the cache."""
        return self.backbone.core.base_model(**self.backbone.inputs(prompts), attention_mask=prompts.mask.long(),
                                             past_key_values=cache, use_cache=True).last_hidden_state

    def push(self, tokens: Tensor, visible: Tensor, depth: Tensor, intra: Tensor | None = None) -> Tensor:
        users, width = tokens.shape
        prompt = self.mask.unsqueeze(1).expand(-1, width, -1)
        seen = torch.cat([prompt, visible.expand(users, -1, -1)], dim=-1).unsqueeze(1)
        intra = depth + 2 if intra is None else intra
        inputs = self._inputs(tokens, depth.expand(users, width), intra.expand(users, width))
        return self.backbone.core.base_model(**inputs, attention_mask=self._masked(seen), past_key_values=self.cache,
                                             use_cache=True).last_hidden_state

    def _inputs(self, tokens: Tensor, depth: Tensor, intra: Tensor) -> dict[str, Tensor]:
        """What the model is given for ``[B, Q]`` pushed tokens."""
        return {"input_ids": tokens, "position_ids": self.lengths.unsqueeze(1) + depth}

    def _masked(self, seen: Tensor) -> Tensor:
        """``[B, 1, Q, K]`` bool as the model takes it."""
        return additive(seen, self.hidden.dtype)

    def select(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths, self.hidden = self.mask[rows], self.lengths[rows], self.hidden[rows]

    def forget(self) -> None:
        for layer in self.cache.layers:
            layer.forget(self.mask.size(1))
