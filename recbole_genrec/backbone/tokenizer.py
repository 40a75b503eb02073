"""A tokenizer trained on the catalogue's titles, for scratch backbones (no download)."""

from __future__ import annotations

from typing import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def train_bpe(texts: Iterable[str], vocab_size: int, specials: Iterable[str]) -> Tokenizer:
    """Byte-level BPE whose words are split at blanks and line breaks only.

    ``"(1995)"`` or ``"Lego"`` can thus become one token: short spellings, short sequences. Every byte is in the
    alphabet, so nothing is ever unknown. The same texts give the same tokenizer.

    Args:
        texts: what to train on: titles and prompt wording, never users' sequences.
        vocab_size: upper bound, specials included.
        specials: special tokens, which no text is ever split into; they have the first ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r" ?[^\s]+|\n|\s+"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(specials),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int, extra: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """:func:`train_bpe` with ``<pad>``, ``<s>``, ``</s>`` and further special tokens."""
    tokenizer = train_bpe(texts, vocab_size, ["<pad>", "<s>", "</s>", *extra])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   extra_special_tokens=list(extra) or None)
