"""A Hugging Face encoder-decoder of the T5 family behind the step interface of decoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache

from recbole_genrec.backbone.cache import additive, growing_cache
from recbole_genrec.backbone.head import pick
from recbole_genrec.prompt import Batch


class Seq2SeqBackbone(nn.Module):
    """T5, or a model built of its blocks.

    Args:
        model: the Hugging Face ``...ForConditionalGeneration``.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in the decoder, its own and those read across."""
        config = self.model.config
        return 4 * config.num_hidden_layers * config.hidden_size * self.model.dtype.itemsize

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]``."""
        return self.model.get_output_embeddings()(hidden)

    def logits_at(self, hidden: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """``[R, d]`` states -> ``[M]`` logits of single tokens: ``token[m]`` after state ``row[m]`` (ascending)."""
        return pick(self.model.get_output_embeddings(), lambda logits: logits, hidden, row, token)

    def start(self, prompts: Batch) -> "T5State":
        """Encode the prompts once; the decoder's start token is the first that every answer sees."""
        return T5State(self, prompts)


class T5State:
    """Encoded prompts of ``B`` users, and the tokens pushed after the start token (see ``DecodingState``).

    T5's decoder takes positions from where a token stands in the batch, whatever ``position_ids`` say. So its blocks
    are run one by one here, with the relative bias of each token's place on its own path.
    """

    def __init__(self, backbone: Seq2SeqBackbone, prompts: Batch):
        self.backbone = backbone
        self.logits, self.logits_at = backbone.logits, backbone.logits_at
        core = backbone.model
        mask = prompts.mask
        self.encoded = torch.zeros(*mask.shape, core.config.d_model, dtype=core.dtype, device=mask.device)
        for rows in prompts.groups():
            states = self._encode(prompts.rows(rows))
            self.encoded[rows, :states.size(1)] = states.to(core.dtype)
        self.mask = additive(mask, self.encoded.dtype)[:, None, None]
        self.cache = EncoderDecoderCache(growing_cache(), growing_cache())
        self.depth = torch.zeros(len(mask), 0, dtype=torch.int64, device=mask.device)
        begin = torch.full((len(mask), 1), core.config.decoder_start_token_id, device=mask.device)
        self.hidden = self._run(begin, torch.ones_like(begin, dtype=torch.bool).unsqueeze(1),
                                torch.zeros_like(begin))[:, 0]

    def _encode(self, prompts: Batch) -> Tensor:
        """The encoder, with mask and bias added up once and not in every layer."""
        encoder = self.backbone.model.get_encoder()
        hidden = encoder.embed_tokens(prompts.tokens)
        width = prompts.tokens.size(1)
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(width, width).to(hidden.dtype)
        bias = bias + additive(prompts.mask, hidden.dtype)[:, None, None]
        for block in encoder.block:
            hidden = block(hidden, position_bias=bias)[0]
        return encoder.final_layer_norm(hidden)

    def push(self, tokens: Tensor, visible: Tensor, depth: Tensor) -> Tensor:
        users, width = tokens.shape
        visible = torch.cat([visible.new_ones(len(visible), width, 1), visible], -1)  # all see the start token
        return self._run(tokens, visible.expand(users, -1, -1), (depth + 1).expand(users, width))

    def _run(self, tokens: Tensor, visible: Tensor, depth: Tensor) -> Tensor:
        decoder = self.backbone.model.get_decoder()
        self.depth = torch.cat([self.depth, depth], 1)
        first = decoder.block[0].layer[0].SelfAttention
        bucket = first._relative_position_bucket(self.depth.unsqueeze(1) - depth.unsqueeze(2), bidirectional=False,
                                                 num_buckets=first.relative_attention_num_buckets,
                                                 max_distance=first.relative_attention_max_distance)
        hidden = decoder.embed_tokens(tokens)
        bias = first.relative_attention_bias(bucket).permute(0, 3, 1, 2).to(hidden.dtype)
        mask = additive(visible.unsqueeze(1), hidden.dtype)  # with none, the block would make a causal one
        for block in decoder.block:
            hidden = block(hidden, attention_mask=mask, position_bias=bias, encoder_hidden_states=self.encoded,
                           encoder_decoder_position_bias=self.mask, past_key_values=self.cache)[0]
        hidden = decoder.final_layer_norm(hidden)
        config = self.backbone.model.config
        return hidden * config.d_model**-0.5 if config.scale_decoder_outputs else hidden

    def select(self, rows: Tensor) -> None:
        for part in (self.cache.self_attention_cache, self.cache.cross_attention_cache):
            part.batch_select_indices(rows)
        self.encoded, self.mask, self.depth, self.hidden = (
            values[rows] for values in (self.encoded, self.mask, self.depth, self.hidden))

    def forget(self) -> None:
        self.depth = self.depth[:, :1]
        for layer in self.cache.self_attention_cache.layers:
            layer.forget(1)
