"""What every backbone is behind our interface: how it is made and loaded, what LoRA adapts, its head."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from recbole_genrec.backbone.head import sum_in_pieces
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.errors import UserError


class Backbone(nn.Module):
    """A Hugging Face language model, plain or with peft's LoRA injected.

    Args:
        model: the Hugging Face model, or a ``PeftModel`` around one.

    Attributes:
        kind: kind of architecture, as ``properties/backbone`` calls it.
        auto: transformers' class for models of this kind.
        lora_targets: modules that LoRA adapts where nothing else is said; those that the architecture has.
        lora_task: peft's name of the task.
        extra_tokens: special tokens that must be in the vocabulary.
        adds_tokens: whether a pre-trained model that lacks them gets them, as trained rows of its embedding.
        answers_take_positions: whether an answer's tokens stand after the prompt's in the model's positions.
        of_catalogue: names of weights that belong to the users or items of one data set.
    """

    kind: str
    auto: type
    lora_targets: tuple[str, ...]
    lora_task: str | None
    extra_tokens: tuple[str, ...] = ()
    adds_tokens = False
    answers_take_positions = False
    of_catalogue: frozenset[str] = frozenset()

    @classmethod
    def scratch_tokenizer(cls, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
        """The tokenizer of a model that is trained from scratch."""
        return train_tokenizer(texts, vocab_size, cls.extra_tokens)

    @classmethod
    def scratch(cls, settings: dict) -> nn.Module:
        """A model with random weights, from the settings of its configuration."""
        settings = dict(settings)
        return cls.auto.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))

    @classmethod
    def pretrained(cls, source: str, dtype: torch.dtype, **remote) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """Model and tokenizer of a folder or of the hub; safetensors only."""
        tokenizer = AutoTokenizer.from_pretrained(source, **remote)
        return cls.auto.from_pretrained(source, dtype=dtype, use_safetensors=True, **remote), tokenizer

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def core(self) -> nn.Module:
        """The Hugging Face model itself; peft has injected its layers into it."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def layers(self) -> list[nn.Module]:
        """The layers, as the architecture says what must not be split."""
        names = set(self.core._no_split_modules or ())
        return [module for module in self.core.modules() if type(module).__name__ in names]

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]``."""
        raise NotImplementedError  # each architecture does something of its own after the head

    def sum_over_logits(self, loss: Callable[[Tensor, slice], Tensor], states: Tensor) -> Tensor:
        """Sum of a loss over ``[N, d]`` states; ``loss`` is given ``[n, V]`` logits and their place among all ``N``."""
        head = self.core.get_output_embeddings()
        return sum_in_pieces(lambda part, rows: loss(self.logits(part), rows), states, head.parameters(),
                             self.core.config.vocab_size)

    def _refuse_unless_equal(self, hidden: Tensor, expected: Tensor) -> None:
        """Refuse an architecture whose own logits are not those of our step interface.

        Args:
            hidden: ``[..., d]`` our states.
            expected: ``[..., V]`` its logits.
        Raises:
            UserError: they differ.
        """
        error = float((self.logits(hidden).float().log_softmax(-1) - expected.float().log_softmax(-1)).abs().max())
        if not error < (1e-2 if hidden.dtype == torch.float32 else 0.5):
            raise UserError(f"the architecture {type(self.core).__name__} cannot be decoded on a tree "
                            f"(its own forward pass differs from ours by {error:.3g} in log-probability)")
