"""An encoder-decoder whose encoder also sees which whole word each token is part of (P5, Geng et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.encoder_texts.whole_words import WholeWordBatch


class WholeWordBackbone(Seq2SeqBackbone):
    """T5 or BART with whole-word embeddings added to the encoder's tokens; trained whole, under LoRA too."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.words = None

    def add_table(self, words: int) -> None:
        """Make the table: standard normal as in P5's code, but for row 0 (no word), which is and stays zero."""
        self.words = nn.Embedding(words, self.core.config.d_model, padding_idx=0)

    def encoder_inputs(self, prompts: WholeWordBatch) -> Tensor:
        embedded = super().encoder_inputs(prompts)
        return embedded if self.words is None else embedded + self.words(prompts.word)
