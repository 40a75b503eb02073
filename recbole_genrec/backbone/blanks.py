"""Texts with blanks behind each kind of backbone: GLM natively, a causal model and T5 by small additions.

A row is ``A B`` (see :class:`recbole_genrec.infilling.blanks.BlankBatch`): A is the text with a mask for every blank, B
the blanks' contents one after another, each begun by START. Whatever the architecture, the state at a column of B
predicts that column's label.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from recbole_genrec.backbone.base import Backbone
from recbole_genrec.backbone.cache import additive
from recbole_genrec.backbone.causal import CausalBackbone, CausalState
from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration
from recbole_genrec.backbone.glm_checkpoint import (SPECIALS, glm_special_ids, load_glm, load_glm_tokenizer,
                                                   with_specials)
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone, Seq2SeqState
from recbole_genrec.backbone.tokenizer import train_bpe
from recbole_genrec.errors import UserError
from recbole_genrec.infilling.blanks import BlankBatch, Specials

#: What a causal model's vocabulary lacks: masks of the three levels, start and end of a blank.
BLANK_TOKENS = ("[MASK]", "[sMASK]", "[gMASK]", "[START]", "[END]")
#: Blanks of a text that a causal model can tell apart; further ones share the last number.
MOST_BLANKS = 256
#: Places within an entity that a model without a table of its own for them (LLaMA, T5) can tell apart.
MOST_PLACES = 512


class Blanks:
    """What RecSysLLM asks of a backbone besides ``Backbone``; here, what most of them answer.

    Attributes:
        most_blanks: blanks of a text that it can tell apart; None: any number.
        most_places: largest intra id.
    """

    most_blanks: int | None
    most_places: int

    def add_tables(self) -> None:
        """Make tables of the ids that the backbone has none of its own for."""

    def numbered(self, batch: BlankBatch) -> BlankBatch:
        """The batch as the backbone tells blanks apart: by their ids, so their masks, STARTs and ENDs may be alike."""
        return batch

    def pairs(self, batch: BlankBatch) -> Tensor:
        """Number of pairs of a token and a token that it sees, itself included."""
        return batch.pairs


class _OneSequence(Blanks, CausalBackbone):
    """A and B stand in one sequence."""

    def __init__(self, model: nn.Module):
        Backbone.__init__(self, model)
        self.blocks = False  # no mask here is sparse, so attention stays torch's own

    def layout(self, batch: BlankBatch) -> dict[str, Tensor]:
        """What the model is given for whole rows."""
        raise NotImplementedError  # by architecture

    def hidden_states(self, batch: BlankBatch) -> Tensor:
        """``[B, T, d]`` last hidden states."""
        return self._layers(**self.layout(batch), use_cache=False).last_hidden_state


class _BlankState(CausalState):
    """Prompts that end with the START of their one blank; what is pushed belongs to that blank."""

    def __init__(self, backbone: _OneSequence, prompts: BlankBatch):
        last = (prompts.lengths - 1).unsqueeze(1)
        self.inter, self.blank = prompts.inter.gather(1, last), prompts.blank.gather(1, last)
        super().__init__(backbone, prompts)

    def _read(self, prompts: BlankBatch, cache: Cache) -> Tensor:
        return self.backbone.core.base_model(**self.backbone.layout(prompts), past_key_values=cache,
                                             use_cache=True).last_hidden_state

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.inter, self.blank = self.inter[rows], self.blank[rows]


class GLMBlanks(_OneSequence):
    """GLM: A is seen from both sides, B from the left, two position ids a token (Du et al. 2022, section 2.1)."""

    kind = "glm"
    lora_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")  # paper
    lora_task = None
    answers_take_positions = False  # they have their mask's
    most_blanks = None

    @classmethod
    def scratch_tokenizer(cls, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
        return with_specials(train_bpe(texts, vocab_size, SPECIALS))

    @classmethod
    def scratch(cls, settings: dict) -> nn.Module:
        return GLMForConditionalGeneration(GLMConfig(**settings))

    @classmethod
    def pretrained(cls, source: str, dtype: torch.dtype, **remote) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        return load_glm(source, dtype), load_glm_tokenizer(source)

    def check(self) -> None:
        """Nothing: the model is ours."""

    @property
    def most_places(self) -> int:
        return self.core.config.max_sequence_length

    @staticmethod
    def specials(tokenizer: PreTrainedTokenizerBase) -> Specials:
        """The ids of the special tokens."""
        ids = glm_special_ids(tokenizer)
        return Specials(*(ids[name] for name in ("cls", "eos", "start", "end", "entity", "sentence", "document")))

    def layout(self, batch: BlankBatch) -> dict[str, Tensor]:
        return {"input_ids": batch.tokens, "position_ids": torch.stack([batch.inter, batch.intra], 1),
                "attention_mask": batch.sep}

    def start(self, prompts: BlankBatch) -> "GLMState":
        """Run the prompts once; each ends with the START of its one blank."""
        return GLMState(self, prompts)


class GLMState(_BlankState):
    """See ``DecodingState``; a pushed token's inter id is its mask's place."""

    def _inputs(self, tokens: Tensor, depth: Tensor, intra: Tensor) -> dict[str, Tensor]:
        intra = intra.clamp(max=self.backbone.most_places)
        return {"input_ids": tokens, "position_ids": torch.stack([self.inter.expand_as(tokens), intra], 1)}

    def _masked(self, seen: Tensor) -> Tensor:
        return seen


class CausalBlanks(_OneSequence):
    """A LLaMA-like model: ``A B`` as one sequence, read from the left, with its own rotary positions.

    Giving B's tokens their mask's position would erase their order. So which blank a token belongs to, and its place
    within an entity, are two embeddings that are added to the token's. They begin as zeros: before the first step the
    model is the one that was loaded.
    """

    # And their like in architectures that have some of them in one.
    lora_targets = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj",
                    "down_proj")
    extra_tokens = BLANK_TOKENS
    adds_tokens = True
    most_blanks, most_places = MOST_BLANKS, MOST_PLACES

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.blank_table = self.intra_table = None
        #: Whether A is seen from both sides.
        self.bidirectional = False

    def add_tables(self) -> None:
        width = self.core.config.hidden_size
        self.blank_table, self.intra_table = _zeros(MOST_BLANKS + 1, width), _zeros(MOST_PLACES + 1, width)

    def pairs(self, batch: BlankBatch) -> Tensor:
        return batch.pairs if self.bidirectional else (batch.lengths * (batch.lengths + 1) // 2).sum()

    @staticmethod
    def specials(tokenizer: PreTrainedTokenizerBase) -> Specials:
        """The ids of the special tokens."""
        entity, sentence, document, start, end = tokenizer.convert_tokens_to_ids(list(BLANK_TOKENS))
        return Specials(tokenizer.bos_token_id, tokenizer.eos_token_id, start, end, entity, sentence, document)

    def embed(self, tokens: Tensor, blank: Tensor, intra: Tensor) -> Tensor:
        """``[..., d]`` of tokens, the numbers of their blanks (0: none) and their places within an entity."""
        embedded = self.core.get_input_embeddings()(tokens)
        if self.blank_table is None:
            return embedded
        return embedded + _look_up(self.blank_table, blank) + _look_up(self.intra_table, intra)

    def layout(self, batch: BlankBatch) -> dict[str, Tensor]:
        inputs = {"inputs_embeds": self.embed(batch.tokens, batch.blank, batch.intra)}
        if self.bidirectional:  # else causal attention needs no mask
            column = torch.arange(batch.tokens.size(1), device=batch.tokens.device)
            seen = (column <= column.unsqueeze(1)) | (column < batch.sep[:, None, None])
            inputs["attention_mask"] = additive(seen.unsqueeze(1), self.core.dtype)
        return inputs

    def start(self, prompts: BlankBatch) -> "CausalBlankState":
        """Run the prompts once; each ends with the START of its one blank."""
        return CausalBlankState(self, prompts)


class CausalBlankState(_BlankState):
    """See ``DecodingState``."""

    def _inputs(self, tokens: Tensor, depth: Tensor, intra: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.backbone.embed(tokens, self.blank.expand_as(tokens), intra),
                "position_ids": self.lengths.unsqueeze(1) + depth}


#: T5's sentinels: mask ``i`` in the encoder, START of blank ``i`` and END of the one before it in the decoder.
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))


class Seq2SeqBlanks(Blanks, Seq2SeqBackbone):
    """T5: A goes to the encoder, B to the decoder, masks and START are sentinels (its own span corruption).

    Its relative positions stay; places within an entity are an embedding added to encoder's and decoder's tokens,
    zeros at the beginning.
    """

    lora_targets = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")
    extra_tokens = SENTINELS
    most_blanks, most_places = len(SENTINELS) - 1, MOST_PLACES  # the last blank's END is a sentinel too

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.encoder_intra = self.decoder_intra = None
        self.sentinels: Tensor | None = None

    def add_tables(self) -> None:
        width = self.core.config.d_model
        self.encoder_intra, self.decoder_intra = _zeros(MOST_PLACES + 1, width), _zeros(MOST_PLACES + 1, width)

    def specials(self, tokenizer: PreTrainedTokenizerBase) -> Specials:
        """The ids of the special tokens: every level's mask is the first sentinel, END the second.

        Raises:
            UserError: a vocabulary without sentinels.
        """
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in SENTINELS if token not in vocabulary]:
            raise UserError(f"the tokenizer of this {type(self.core).__name__} has no '{missing[0]}': RecSysLLM needs "
                            "T5's hundred sentinels")
        ids = [vocabulary[token] for token in SENTINELS]
        self.sentinels = torch.tensor(ids)
        return Specials(None, tokenizer.eos_token_id, ids[0], ids[1], ids[0], ids[0], ids[0])

    def numbered(self, batch: BlankBatch) -> BlankBatch:
        """The batch with each blank's own sentinels for its mask, START and END."""
        ids = self.sentinels.to(batch.tokens.device)
        own = ids[(batch.blank - 1).clamp(0, self.most_blanks - 1)]
        following = ids[batch.blank.clamp(max=self.most_blanks)]
        # A blank's mask, and in B the column that begins it: the only places with the first sentinel.
        tokens = torch.where((batch.tokens == ids[0]) & (batch.blank > 0), own, batch.tokens)
        label = torch.where(batch.label == ids[1], following, batch.label)
        return replace(batch, tokens=tokens, label=label)

    def encoder_inputs(self, prompts: BlankBatch) -> Tensor:
        embedded = super().encoder_inputs(prompts)
        return embedded if self.encoder_intra is None else embedded + _look_up(self.encoder_intra, prompts.intra)

    def decoder_inputs(self, tokens: Tensor, intra: Tensor) -> Tensor:
        embedded = super().decoder_inputs(tokens, intra)
        return embedded if self.decoder_intra is None else embedded + _look_up(self.decoder_intra, intra)

    def hidden_states(self, batch: BlankBatch) -> Tensor:
        """``[B, T, d]``, the decoder's states at B's columns and zeros elsewhere."""
        width = int((batch.lengths - batch.sep).max())
        column = batch.sep.unsqueeze(1) + torch.arange(width, device=batch.sep.device)
        real = column < batch.lengths.unsqueeze(1)
        column = column.clamp(max=batch.tokens.size(1) - 1)
        states = self.forced(batch.part_a, batch.tokens.gather(1, column), batch.intra.gather(1, column))[:, 1:]
        result = states.new_zeros(*batch.tokens.shape, states.size(2))
        row, place = real.nonzero(as_tuple=True)
        return result.index_put((row, column[row, place]), states[row, place])

    def start(self, prompts: BlankBatch) -> Seq2SeqState:
        """Encode A; every answer begins with the decoder's start token and START of the one blank."""
        device = prompts.tokens.device
        begin = torch.tensor([self.core.config.decoder_start_token_id, int(self.sentinels[0])], device=device)
        return Seq2SeqState(self, prompts.part_a, begin)


FAMILIES: dict[str, type] = {family.kind: family for family in (GLMBlanks, CausalBlanks, Seq2SeqBlanks)}


def _zeros(rows: int, width: int) -> nn.Embedding:
    return nn.Embedding(rows, width, _weight=torch.zeros(rows, width))


def _look_up(table: nn.Embedding, ids: Tensor) -> Tensor:
    return table(ids.clamp(max=table.num_embeddings - 1))
