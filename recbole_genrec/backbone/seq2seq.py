"""A Hugging Face encoder-decoder of the T5 family behind the step interface of decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers import (AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, EncoderDecoderCache,
                          PreTrainedTokenizerBase)

from recbole_genrec.backbone.cache import additive, growing_cache
from recbole_genrec.backbone.head import pick, sum_in_pieces
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.errors import UserError
from recbole_genrec.prompt import Batch


class Seq2SeqBackbone(nn.Module):
    """T5, or a model built of its blocks.

    Args:
        model: the Hugging Face ``...ForConditionalGeneration``, or a ``PeftModel`` around one.

    Attributes: see :class:`recbole_genrec.backbone.causal.CausalBackbone`.
    """

    kind = "seq2seq"
    lora_targets: tuple[str, ...] = ("q", "v")
    lora_task: str | None = "SEQ_2_SEQ_LM"
    extra_tokens: tuple[str, ...] = ()
    adds_tokens = False
    answers_take_positions = False
    #: Relative positions have no end, and every layer looks at everything.
    max_positions = window = None

    @classmethod
    def scratch_tokenizer(cls, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
        """The tokenizer of a model that is trained from scratch."""
        return train_tokenizer(texts, vocab_size, cls.extra_tokens)

    @staticmethod
    def scratch(settings: dict) -> nn.Module:
        """A model with random weights, from the settings of its configuration."""
        settings = dict(settings)
        return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))

    @staticmethod
    def pretrained(source: str, dtype: torch.dtype, **remote) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """Model and tokenizer of a folder or of the hub; safetensors only."""
        tokenizer = AutoTokenizer.from_pretrained(source, **remote)
        return AutoModelForSeq2SeqLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **remote), tokenizer

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def core(self) -> nn.Module:
        """The ``...ForConditionalGeneration`` itself; peft has injected its layers into it."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def check(self) -> None:
        """Refuse an architecture whose decoder is not made of T5's blocks.

        Raises:
            UserError: it is another one.
        """
        if not hasattr(self.core.get_decoder(), "block"):
            raise UserError(f"the architecture {type(self.core).__name__} cannot be decoded on a tree: its decoder is "
                            "not made of T5's blocks")

    def compile_layers(self) -> None:
        """Nothing is compiled: the blocks run one by one."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in the decoder, its own and those read across."""
        config = self.core.config
        return 4 * config.num_hidden_layers * config.hidden_size * self.model.dtype.itemsize

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]``."""
        return self.core.get_output_embeddings()(hidden)

    def sum_over_logits(self, loss: Callable[[Tensor, slice], Tensor], states: Tensor) -> Tensor:
        """Sum of a loss over ``[N, d]`` states; ``loss`` is given ``[n, V]`` logits and their place among all ``N``."""
        head = self.core.get_output_embeddings()
        return sum_in_pieces(lambda part, rows: loss(self.logits(part), rows), states, head.parameters(),
                             self.core.config.vocab_size)

    def logits_at(self, hidden: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """``[R, d]`` states -> ``[M]`` logits of single tokens: ``token[m]`` after state ``row[m]`` (ascending)."""
        return pick(self.core.get_output_embeddings(), lambda logits: logits, self.core.config.vocab_size, hidden, row,
                    token)

    def start(self, prompts: Batch) -> "T5State":
        """Encode the prompts once; the decoder's start token is the first that every answer sees."""
        begin = torch.full((1,), self.core.config.decoder_start_token_id, device=prompts.tokens.device)
        return T5State(self, prompts, begin)

    def encoder_inputs(self, prompts: Batch) -> Tensor:
        """``[B, T, d]`` what the encoder's first block is given."""
        return self.core.get_encoder().embed_tokens(prompts.tokens)

    def decoder_inputs(self, tokens: Tensor, intra: Tensor) -> Tensor:
        """``[B, Q]`` tokens -> ``[B, Q, d]`` what the decoder's first block is given.

        ``intra`` is read by models that tell places within an entity apart (see ``DecodingState``).
        """
        return self.core.get_decoder().embed_tokens(tokens)


class T5State:
    """Encoded prompts of ``B`` users, and the tokens pushed after those that begin every answer (``DecodingState``).

    T5's decoder takes positions from where a token stands in the batch, whatever ``position_ids`` say. So its blocks
    are run one by one here, with the relative bias of each token's place on its own path.

    Args:
        backbone: the model.
        prompts: what the encoder reads.
        begin: ``[n]`` tokens that every answer begins with.
    """

    def __init__(self, backbone: Seq2SeqBackbone, prompts: Batch, begin: Tensor):
        self.backbone = backbone
        self.logits, self.logits_at = backbone.logits, backbone.logits_at
        core, mask = backbone.core, prompts.mask
        self.encoded = torch.zeros(*mask.shape, core.config.d_model, dtype=core.dtype, device=mask.device)
        for rows in prompts.groups():
            states = encode(backbone, prompts.rows(rows))
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
        decoder = self.backbone.core.get_decoder()
        self.depth = torch.cat([self.depth, depth], 1)
        first = decoder.block[0].layer[0].SelfAttention
        bucket = first._relative_position_bucket(self.depth.unsqueeze(1) - depth.unsqueeze(2), bidirectional=False,
                                                 num_buckets=first.relative_attention_num_buckets,
                                                 max_distance=first.relative_attention_max_distance)
        hidden = self.backbone.decoder_inputs(tokens, intra)
        bias = first.relative_attention_bias(bucket).permute(0, 3, 1, 2).to(hidden.dtype)
        mask = additive(visible.unsqueeze(1), hidden.dtype)  # with none, the block would make a causal one
        for block in decoder.block:
            hidden = block(hidden, attention_mask=mask, position_bias=bias, encoder_hidden_states=self.encoded,
                           encoder_decoder_position_bias=self.mask, past_key_values=self.cache)[0]
        hidden = decoder.final_layer_norm(hidden)
        config = self.backbone.core.config
        return hidden * config.d_model**-0.5 if config.scale_decoder_outputs else hidden

    def select(self, rows: Tensor) -> None:
        for part in (self.cache.self_attention_cache, self.cache.cross_attention_cache):
            part.batch_select_indices(rows)
        self.encoded, self.mask, self.depth, self.hidden = (
            values[rows] for values in (self.encoded, self.mask, self.depth, self.hidden))

    def forget(self) -> None:
        self.depth = self.depth[:, :self.begun]
        for layer in self.cache.self_attention_cache.layers:
            layer.forget(self.begun)


def encode(backbone: Seq2SeqBackbone, prompts: Batch) -> Tensor:
    """``[B, T, d]`` the encoder's states, with mask and bias added up once and not in every layer."""
    encoder = backbone.core.get_encoder()
    hidden = backbone.encoder_inputs(prompts)
    width = prompts.tokens.size(1)
    bias = encoder.block[0].layer[0].SelfAttention.compute_bias(width, width).to(hidden.dtype)
    bias = bias + additive(prompts.mask, hidden.dtype)[:, None, None]
    for block in encoder.block:
        hidden = block(hidden, position_bias=bias)[0]
    return encoder.final_layer_norm(hidden)
