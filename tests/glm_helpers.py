"""Random small GLMs and inputs of theirs, for the tests of the model and of its files."""

from __future__ import annotations

import torch

from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration

TINY = dict(num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=60, max_sequence_length=40,
            initializer_range=0.3, embedding_dropout_prob=0.0, attention_dropout_prob=0.0, output_dropout_prob=0.0)


def tiny(seed: int = 0, **changes) -> GLMForConditionalGeneration:
    """A random model whose distributions are far from flat; biases and norms are not trivial either."""
    torch.manual_seed(seed)
    model = GLMForConditionalGeneration(GLMConfig(**{**TINY, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight += 0.2 * torch.randn_like(weight)
    return model


def inputs(batch: int = 3, length: int = 9, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and two rows of positions, all random."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, TINY["vocab_size"], (batch, length), generator=generator),
            torch.randint(0, TINY["max_sequence_length"] + 1, (batch, 2, length), generator=generator))
