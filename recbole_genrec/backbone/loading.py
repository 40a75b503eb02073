"""From ``llm:`` to a model and its tokenizer: a hub id, a folder, or a name in ``properties/backbone/``."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer,
                          PreTrainedTokenizerBase)

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.errors import UserError
from recbole_genrec.settings import property_file, property_names, read_yaml


@dataclass
class Loaded:
    """A backbone ready to train.

    Attributes:
        backbone: the model behind our interface.
        tokenizer: its tokenizer.
        pretrained: True if only LoRA's weights train.
        name: what ``llm:`` said, for the record.
    """

    backbone: CausalBackbone | Seq2SeqBackbone
    tokenizer: PreTrainedTokenizerBase
    pretrained: bool
    name: str


def load_backbone(config, texts: Iterable[str]) -> Loaded:
    """Load or make the backbone that ``config["llm"]`` names.

    Args:
        config: reads llm, lora_*, precision, trust_remote_code, device, gradient_checkpointing, torch_compile.
        texts: what a scratch backbone's tokenizer is trained on.
    Raises:
        UserError: nothing of that name, a folder without a model, or a model that cannot be used.
    """
    name = str(config["llm"])
    found = resolve(name)
    loaded = _from_scratch(name, found, texts) if isinstance(found, dict) else _pretrained(name, found, config)
    if config["gradient_checkpointing"]:
        try:
            loaded.backbone.core.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise UserError(f"gradient_checkpointing: {_first_sentence(error)}") from None
    if config["torch_compile"]:
        loaded.backbone.compile_layers()
    return loaded


def resolve(name: str) -> dict | str:
    """What ``llm:`` means, by name alone: the description of a scratch backbone, or a folder or hub id to load.

    Raises:
        UserError: a folder without a model, or nothing that could be meant.
    """
    if os.path.isfile(property_file("backbone", name)):
        description = read_yaml(property_file("backbone", name))
        return description if "config" in description else resolve(description["llm"])
    folder = Path(name).expanduser()
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file():
            raise UserError(f"--llm={name}: the folder holds no model (no config.json)")
        return str(folder)
    known = ", ".join(property_names("backbone"))
    if near := difflib.get_close_matches(name, property_names("backbone"), n=1, cutoff=0.8):
        raise UserError(f"--llm={name}: no such folder or backbone; did you mean '{near[0]}'?")
    # A hub id is "name" or "owner/name".
    if not re.fullmatch(r"[\w.-]*[A-Za-z][\w.-]*(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"--llm={name}: no such folder; backbones: {known}; else give the id of a model on the hub")
    return name


def compute_dtype(config) -> torch.dtype:
    """bf16 where ``precision`` asks for it, or where it is ``auto`` and the hardware multiplies in bf16."""
    if config["precision"] == "auto":
        if config["device"].type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            # oneDNN calls bf16 supported where it only emulates it, at half the speed of fp32.
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config["precision"] == "bf16" else torch.float32


def _from_scratch(name: str, description: dict, texts: Iterable[str]) -> Loaded:
    tokenizer = train_tokenizer(texts, description["tokenizer"]["vocab_size"])
    settings = dict(description["config"])
    # Rotary positions cost nothing, so the limit is only a number; prompts are bounded by max_prompt_tokens.
    settings.setdefault("max_position_embeddings", 8192)
    seq2seq = description["kind"] == "seq2seq"
    model_config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=len(tokenizer),
                                        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                                        pad_token_id=tokenizer.pad_token_id)
    backbone = Seq2SeqBackbone(AutoModelForSeq2SeqLM.from_config(model_config)) if seq2seq else \
        CausalBackbone(AutoModelForCausalLM.from_config(model_config))
    return Loaded(backbone, tokenizer, False, name)


def _pretrained(name: str, source: str, config) -> Loaded:
    remote = {"trust_remote_code": bool(config["trust_remote_code"])}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **remote)
        # Frozen weights may be bf16; safetensors only, so that loading runs no code of the file's.
        dtype = compute_dtype(config) if config["device"].type == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **remote)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(f"--llm={name} is no backbone ({', '.join(property_names('backbone'))}), no folder with a "
                        f"model, and could not be had from the hub: {_first_sentence(error)}") from None
    backbone = CausalBackbone(model)
    backbone.check()
    backbone.model = _with_lora(model, config)
    return Loaded(backbone, tokenizer, True, name)


def _with_lora(model: nn.Module, config) -> nn.Module:
    """The model with LoRA adapters; all other weights are frozen."""
    import peft

    targets = config["lora_target_modules"]
    names = {module.rsplit(".", 1)[-1] for module, _ in model.named_modules()}
    if targets is None:
        # The paper's, where the architecture has them; else peft's own choice for it.
        targets = ["q_proj", "v_proj"] if {"q_proj", "v_proj"} <= names else None
    else:
        targets = [targets] if isinstance(targets, str) else list(targets)
        if missing := [target for target in targets if target not in names]:
            raise UserError(f"lora_target_modules: {type(model).__name__} has no module '{missing[0]}'")
    try:
        return peft.get_peft_model(model, peft.LoraConfig(
            r=config["lora_r"], lora_alpha=config["lora_alpha"], lora_dropout=config["lora_dropout"],
            target_modules=targets, bias="none", task_type="CAUSAL_LM",
            fan_in_fan_out=model.config.model_type == "gpt2"))
    except ValueError as error:
        raise UserError(f"LoRA cannot be added: {_first_sentence(error)}") from None


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:300]
