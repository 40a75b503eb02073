"""A Hugging Face encoder-decoder, T5 or BART, behind the step interface of decoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderCache

from recbole_genrec.backbone.base import Backbone
from recbole_genrec.backbone.cache import additive, growing_cache
from recbole_genrec.backbone.head import pick
from recbole_genrec.errors import UserError
from recbole_genrec.prompt import Rows


class Seq2SeqBackbone(Backbone):
    """T5 or BART, or a model built of their blocks."""

    kind = "seq2seq"
    auto = AutoModelForSeq2SeqLM
    lora_targets = ("q", "v", "q_proj", "v_proj")  # T5's and BART's names
    lora_task = "SEQ_2_SEQ_LM"
    window = None  # every layer looks at everything

    @torch.no_grad()
    def check(self) -> None:
        """Compare our step interface with the model's own forward pass on a few tokens.

        Raises:
            UserError: an architecture that is neither T5's nor BART's, a configuration without a start token, or the
                two differ.
        """
        if getattr(self.core.config, "decoder_start_token_id", None) is None:
            raise UserError(f"the configuration of this {type(self.core).__name__} has no decoder_start_token_id")
        decoder = self.core.get_decoder()
        bart = all(hasattr(decoder, part) for part in ("layers", "embed_positions", "layernorm_embedding"))
        if not hasattr(decoder, "block") and not (bart and hasattr(decoder.embed_positions, "offset")):
            raise UserError(f"the architecture {type(self.core).__name__} cannot be decoded on a tree: its decoder is "
                            "neither T5's nor BART's")
        device, training = next(self.parameters()).device, self.training
        self.eval()
        prompts = Rows(torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]], device=device), torch.tensor([4, 3], device=device))
        answer = torch.tensor([[12, 13, 14], [14, 12, 13]], device=device)
        begin = torch.full_like(answer[:, :1], self.core.config.decoder_start_token_id)
        expected = self.core(input_ids=prompts.tokens, attention_mask=prompts.mask.long(),
                             decoder_input_ids=torch.cat([begin, answer], 1)).logits[:, 1:]
        visible = torch.ones(3, 3, dtype=torch.bool, device=device).tril()
        hidden = Seq2SeqBackbone.start(self, prompts).push(answer, visible[None], torch.arange(3, device=device)[None])
        self._refuse_unless_equal(hidden, expected)
        self.train(training)

    @property
    def max_positions(self) -> int | None:
        """Tokens that the encoder has positions for (BART); None: relative positions have no end (T5)."""
        table = getattr(self.core.get_encoder(), "embed_positions", None)
        return None if table is None else self.core.config.max_position_embeddings

    def compile_layers(self) -> None:
        """Refused: the blocks run one by one.

        Raises:
            UserError: always.
        """
        raise UserError("torch_compile=true compiles the layers of decoder-only and GLM backbones, not of an "
                        "encoder-decoder")

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in the decoder, its own and those read across."""
        config = self.core.config
        wide = config.num_heads * config.d_kv if hasattr(config, "d_kv") else config.d_model  # T5, BART
        layers = config.num_decoder_layers if hasattr(config, "num_decoder_layers") else config.decoder_layers
        return 4 * layers * wide * self.model.dtype.itemsize

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]``."""
        logits = self.core.get_output_embeddings()(hidden)
        bias = getattr(self.core, "final_logits_bias", None)  # BART
        return logits if bias is None else logits + bias[0]

    def logits_at(self, hidden: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """``[R, d]`` states -> ``[M]`` logits of single tokens: ``token[m]`` after state ``row[m]`` (ascending)."""
        head, vocabulary = self.core.get_output_embeddings(), self.core.config.vocab_size
        picked = pick(head, lambda logits: logits, vocabulary, hidden, row, token)
        bias = getattr(self.core, "final_logits_bias", None)
        return picked if bias is None else picked + bias[0, token]

    def start(self, prompts: Rows) -> "Seq2SeqState":
        """Encode the prompts once; the decoder's start token is the first that every answer sees."""
        begin = torch.full((1,), self.core.config.decoder_start_token_id, device=prompts.tokens.device)
        return Seq2SeqState(self, prompts, begin)

    def encoder_inputs(self, prompts: Rows) -> Tensor:
        """``[B, T, d]`` what the encoder's first block is given."""
        return self.core.get_encoder().embed_tokens(prompts.tokens)

    def encode(self, prompts: Rows) -> Tensor:
        """``[B, T, d]`` the encoder's states."""
        encoder = self.core.get_encoder()
        if not hasattr(encoder, "block"):
            return encoder(inputs_embeds=self.encoder_inputs(prompts),
                           attention_mask=prompts.mask.long()).last_hidden_state
        # T5's mask and bias are added up once and not in every layer, and laid out so that no layer copies them.
        hidden, width = self.encoder_inputs(prompts), prompts.tokens.size(1)
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(width, width).to(hidden.dtype).contiguous()
        bias = bias + additive(prompts.mask, hidden.dtype)[:, None, None]
        for block in encoder.block:
            hidden = block(hidden, position_bias=bias)[0]
        return encoder.final_layer_norm(hidden)

    def decoder_inputs(self, tokens: Tensor, intra: Tensor | None) -> Tensor:
        """``[B, Q]`` tokens -> ``[B, Q, d]`` what the decoder's first block is given.

        ``intra`` is read by models that tell places within an entity apart (see ``DecodingState``).
        """
        return self.core.get_decoder().embed_tokens(tokens)

    def forced(self, prompts: Rows, tokens: Tensor, intra: Tensor | None = None) -> Tensor:
        """The decoder's states in training, by the model's own layers.

        Args:
            prompts: what the encoder reads.
            tokens: ``[B, Q]`` what the decoder reads after its start token.
            intra: ``[B, Q]`` as for :meth:`decoder_inputs`, which gets 0 for the start token.
        Returns:
            ``[B, 1 + Q, d]``.
        """
        core, mask = self.core, prompts.mask.long()
        encoded = core.get_encoder()(inputs_embeds=self.encoder_inputs(prompts), attention_mask=mask).last_hidden_state
        tokens = torch.nn.functional.pad(tokens, (1, 0), value=core.config.decoder_start_token_id)
        intra = None if intra is None else torch.nn.functional.pad(intra, (1, 0))
        states = core.get_decoder()(inputs_embeds=self.decoder_inputs(tokens, intra), encoder_hidden_states=encoded,
                                    encoder_attention_mask=mask, use_cache=False).last_hidden_state
        return scaled(core.config, states)


def scaled(config, states: Tensor) -> Tensor:
    """A decoder's states as its head wants them: T5 with tied embeddings scales them."""
    return states * config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else states


class Seq2SeqState:
    """Encoded prompts of ``B`` users, and the tokens pushed after those that begin every answer (``DecodingState``).

    Both architectures take a token's position from where it stands in the batch, whatever ``position_ids`` say. So
    their layers are run one by one here, with the place that each token has on its own path.

    Args:
        backbone: the model.
        prompts: what the encoder reads.
        begin: ``[n]`` tokens that every answer begins with.
    """

    prior = None

    def __init__(self, backbone: Seq2SeqBackbone, prompts: Rows, begin: Tensor):
        self.backbone = backbone
        self.logits, self.logits_at = backbone.logits, backbone.logits_at
        core, mask = backbone.core, prompts.mask
        self.encoded = torch.zeros(*mask.shape, core.config.d_model, dtype=core.dtype, device=mask.device)
        for rows in prompts.groups():
            states = backbone.encode(prompts.rows(rows))
            self.encoded[rows, :states.size(1)] = states.to(core.dtype)
        self.mask = additive(mask, self.encoded.dtype)[:, None, None]
        self.cache = EncoderDecoderCache(growing_cache(), growing_cache())
        self.depth = torch.zeros(len(mask), 0, dtype=torch.int64, device=mask.device)
        self.begun = len(begin)
        begin = begin.expand(len(mask), -1)
        depth = torch.arange(self.begun, device=mask.device).expand_as(begin)
        seen = torch.ones(self.begun, self.begun, dtype=torch.bool, device=mask.device).tril()
        self.hidden = self._run(begin, seen.expand(len(mask), -1, -1), depth, depth)[:, -1]

    def push(self, tokens: Tensor, visible: Tensor, depth: Tensor, intra: Tensor | None = None) -> Tensor:
        users, width = tokens.shape
        visible = torch.cat([visible.new_ones(len(visible), width, self.begun), visible], -1)
        intra = depth + 2 if intra is None else intra
        return self._run(tokens, visible.expand(users, -1, -1), (depth + self.begun).expand(users, width),
                         intra.expand(users, width))

    def _run(self, tokens: Tensor, visible: Tensor, depth: Tensor, intra: Tensor) -> Tensor:
        self.depth = torch.cat([self.depth, depth], 1)
        embedded = self.backbone.decoder_inputs(tokens, intra)
        return _decode(self.backbone.core, embedded, visible, self.depth, depth, self.encoded, self.mask, self.cache)

    def select(self, rows: Tensor) -> None:
        for part in (self.cache.self_attention_cache, self.cache.cross_attention_cache):
            part.batch_select_indices(rows)
        self.encoded, self.mask, self.depth, self.hidden = (
            values[rows] for values in (self.encoded, self.mask, self.depth, self.hidden))

    def forget(self) -> None:
        self.depth = self.depth[:, :self.begun]
        for layer in self.cache.self_attention_cache.layers:
            layer.forget(self.begun)


def _decode(core: nn.Module, hidden: Tensor, visible: Tensor, all_depths: Tensor, depth: Tensor, encoded: Tensor,
            encoded_mask: Tensor, cache: EncoderDecoderCache) -> Tensor:
    """``[B, Q, d]`` embedded tokens -> ``[B, Q, d]`` the decoder's states.

    Args:
        visible: ``[B, Q, S]`` bool, which of all tokens so far each new one sees.
        all_depths, depth: ``[B, S]`` and ``[B, Q]`` places of all tokens and of the new ones on their paths.
        encoded, encoded_mask: ``[B, P, d]`` and ``[B, 1, 1, P]`` additive.
        cache: of both attentions; the new tokens are added.
    """
    decoder = core.get_decoder()
    if hasattr(decoder, "block"):  # T5: a bias by the distance of two tokens on a path
        first = decoder.block[0].layer[0].SelfAttention
        # One entry a distance, then looked up: far fewer logarithms than pairs of tokens. Beyond the farthest all are
        # alike; the last entry is what hides a token.
        farthest = first.relative_attention_max_distance
        table = first.compute_bias(1, farthest + 1, past_seen_tokens=farthest)[0, :, 0].flip(1).to(hidden.dtype)
        table = torch.nn.functional.pad(table, (0, 1), value=torch.finfo(hidden.dtype).min)
        distance = (depth.unsqueeze(2) - all_depths.unsqueeze(1)).clamp_(0, farthest)
        distance = distance.masked_fill_(~visible, farthest + 1)
        bias = table.index_select(1, distance.flatten()).view(-1, *distance.shape).transpose(0, 1).contiguous()
        for block in decoder.block:  # with no mask, a layer would make a causal one
            hidden = block(hidden, position_bias=bias, encoder_hidden_states=encoded, past_key_values=cache,
                           encoder_decoder_position_bias=encoded_mask, is_causal=False)[0]
        return scaled(core.config, decoder.final_layer_norm(hidden))
    # BART: an embedding of each place
    table, mask = decoder.embed_positions, additive(visible.unsqueeze(1), hidden.dtype)
    hidden = decoder.layernorm_embedding(hidden + nn.functional.embedding(depth + table.offset, table.weight))
    for layer in decoder.layers:
        hidden = layer(hidden, mask, encoded, encoder_attention_mask=encoded_mask, past_key_values=cache,
                       use_cache=True)
    return hidden
