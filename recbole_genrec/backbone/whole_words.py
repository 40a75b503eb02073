"""An encoder-decoder whose encoder also sees which whole word each token is part of (P5, Geng et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.encoder_texts.whole_words import WholeWordBatch


class WholeWordBackbone(Seq2SeqBackbone):
    """T5 or BART with whole-word embeddings added to the encoder's tokens; trained whole, under LoRA too."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.words = None

    def add_table(self, words: int) -> None:
        """Make the table: normal, as in P5's code, and no wider than the tokens' own, beside which it would drown them.

        Row 0 (no word) is and stays zero.
        """
        width = min(1.0, self.core.get_input_embeddings().weight.std().item())
        self.words = nn.Embedding(words, self.core.config.d_model, padding_idx=0)
        with torch.no_grad():
            self.words.weight *= width

    def encoder_inputs(self, prompts: WholeWordBatch) -> Tensor:
        embedded = super().encoder_inputs(prompts)
        return embedded if self.words is None else embedded + self.words(prompts.word)
