r"""What a run costs: the work done in training, FLOPs per target, peak memory.

FLOPs are floating-point operations of matrix products, a multiplication and an addition counting two, forward and
backward pass together, per training target; padding, recomputation (gradient checkpointing) and the optimizer are not
counted. They are estimated:

* A language model by the count of Kaplan et al. (2020, arXiv:2001.08361, section 2.1) and Chowdhery et al. (2022,
  arXiv:2204.02311, appendix B), with the head counted where it is used:

  .. math:: c\,(N_{body} \cdot tokens + N_{head} \cdot supervised) + 12\,L\,d \cdot pairs

  :math:`N_{body}`: weights of the layers' matrices (embeddings are looked up, not multiplied); :math:`N_{head}`:
  vocabulary times width; ``supervised``: positions whose logits are computed; ``pairs``: a token and a token that it
  sees, itself included; :math:`L` layers of width :math:`d`. A weight costs two operations a token forward, two for
  the gradient of its input and, only where it trains, two for its own: :math:`c` is 6 where all weights train and 4
  under LoRA, whose adapters are counted as body weights (two more where they train).
  GenRec's ``item_prior`` costs six times the weights of its table a target, and as much of the model that reads
  numbers (too little in ``layout: per_target``, where that reads a history for one target).
* Any other model by ``torch.utils.flop_counter.FlopCounterMode`` on the first training batch of its last stage.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from recbole_genrec.backbone.causal import CausalBackbone


@dataclass
class Work:
    """What went through a model in training: one batch, or many added up.

    Attributes:
        targets: next-item predictions that were supervised.
        terms: what the batch's mean loss is a mean over.
        tokens: real tokens; 0 for a model without tokens, as all below.
        places: tokens and padding.
        supervised: positions whose logits were computed.
        pairs: token and seen token, itself included.
    """

    targets: int | Tensor = 0
    terms: int | Tensor = 0
    tokens: int | Tensor = 0
    places: int | Tensor = 0
    supervised: int | Tensor = 0
    pairs: int | Tensor = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def numbers(self) -> "Work":
        """The same as whole numbers on the host."""
        return Work(*(int(getattr(self, field.name)) for field in fields(self)))


def language_model_flops(backbone: CausalBackbone, work: Work) -> float:
    """FLOPs of that work in training, by the module's formula."""
    core, config = backbone.core, backbone.core.config.get_text_config()
    body = [weight for module in core.base_model.modules() if not isinstance(module, nn.Embedding)
            for weight in module.parameters(recurse=False) if weight.dim() > 1]
    attention = 12 * config.num_hidden_layers * config.hidden_size * work.pairs
    return _cost(body) * work.tokens + _cost([core.get_output_embeddings().weight]) * work.supervised + attention


def _cost(weights: list[Tensor]) -> int:
    """FLOPs of one token's way through matrices and back."""
    return sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights)


class Peak:
    """Peak memory from the moment of its making on, of this process and of the GPU."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        # Linux forgets the peak of what ran before in this process (proc_pid_clear_refs(5)); elsewhere it stays.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def record(self) -> dict[str, float | None]:
        """``peak_memory_mb`` of the host, ``peak_device_memory_mb`` of the GPU (None without one)."""
        device = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None
        return {"peak_memory_mb": round(_peak_resident() / 2**20, 1),
                "peak_device_memory_mb": None if device is None else round(device, 1)}


def _peak_resident() -> int:
    """Largest resident size of this process, in bytes."""
    with contextlib.suppress(OSError):  # Linux; ru_maxrss would count the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def training_cost(seconds: float, work: Work, flops: float | None) -> dict[str, float | None]:
    """The record's columns on training; None where nothing was trained or there are no tokens.

    Args:
        seconds: in training epochs, without validation.
        work: done in them.
        flops: a target.
    """
    def rate(count: int) -> float | None:
        return round(count / seconds, 2) if count and seconds else None

    return {"train_seconds": round(seconds, 2), "targets_per_second": rate(work.targets),
            "tokens_per_second": rate(work.tokens),
            "padding_share": round(1 - work.tokens / work.places, 4) if work.places else None,
            "flops_per_target": None if flops is None else float(f"{flops:.4g}")}


def processor() -> str:
    """Name of the processor, as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
