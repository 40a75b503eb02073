"""From ``llm:`` to a model and its tokenizer: a hub id, a folder, or a name in ``properties/backbone/``."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from recbole_genrec.backbone.base import Backbone
from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.glm_checkpoint import is_glm, refuse_relatives
from recbole_genrec.backbone.seq2seq import Seq2SeqBackbone
from recbole_genrec.errors import UserError, first_sentence
from recbole_genrec.settings import property_file, property_names, read_yaml

log = logging.getLogger("recbole_genrec")


@dataclass
class Loaded:
    """A backbone ready to train.

    Attributes:
        backbone: the model behind our interface.
        tokenizer: its tokenizer.
        pretrained: True if only LoRA's weights train.
    """

    backbone: Backbone
    tokenizer: PreTrainedTokenizerBase
    pretrained: bool


def load_backbone(config, texts: Iterable[str], families: Mapping[str, type] | None = None) -> Loaded:
    """Load or make the backbone that ``config["llm"]`` names.

    Args:
        config: reads llm, lora_*, precision, trust_remote_code, device, gradient_checkpointing, torch_compile.
        texts: what a scratch backbone's tokenizer is trained on.
        families: kind of architecture (``causal``, ``seq2seq``, ``glm``) -> the class to put it behind; what is not
            there is refused.
    Raises:
        UserError: nothing of that name, a folder without a model, or a model that cannot be used.
    """
    families = FAMILIES if families is None else families
    name = str(config["llm"])
    found = resolve(name)
    loaded = _from_scratch(name, found, texts, families) if isinstance(found, dict) else \
        _pretrained(name, found, config, families)
    if config["gradient_checkpointing"]:
        try:
            loaded.backbone.core.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise UserError(f"gradient_checkpointing: {first_sentence(error)}") from None
    if config["torch_compile"]:
        loaded.backbone.compile_layers()
    return loaded


#: Plain language models behind the step interface.
FAMILIES: dict[str, type] = {family.kind: family for family in (CausalBackbone, Seq2SeqBackbone)}


def family_of(kind: str, name: str, families: Mapping[str, type], model: str = "this model") -> type:
    """The class for a kind of architecture.

    Args:
        kind: ``causal``, ``seq2seq`` or ``glm``.
        name: what ``llm:`` said.
        families: kind -> class.
        model: who asks, for the message.
    Raises:
        UserError: there is none.
    """
    if kind not in families:
        raise UserError(f"--llm={name} is a {kind} backbone, and {model} needs a {' or '.join(families)} one")
    return families[kind]


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
    near = difflib.get_close_matches(name, property_names("backbone"), n=1, cutoff=0.8)
    if near and "/" not in name:  # with a slash it is meant to be on the hub
        raise UserError(f"--llm={name}: no such folder or backbone; did you mean '{near[0]}'?")
    # A hub id is "name" or "owner/name".
    if not re.fullmatch(r"[\w.-]*[A-Za-z][\w.-]*(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"--llm={name}: no such folder; backbones: {known}; else give the id of a model on the hub")
    return name


def compute_dtype(config, pretrained: bool) -> torch.dtype:
    """bf16 where ``precision`` asks for it, or where it is ``auto`` and the hardware is faster in bf16.

    On a CPU that multiplies in bf16, LoRA on layers 256 to 1,024 wide trains 1.2 to 1.4 times as fast; a small
    scratch model, all of whose gradients are converted back, only .4 to .9 times (docs/speed.md).
    """
    if config["precision"] == "auto":
        if config["device"].type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        elif not pretrained:
            fast = False
        else:
            # oneDNN calls bf16 supported where it only emulates it, at half the speed of fp32.
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config["precision"] == "bf16" else torch.float32


def _from_scratch(name: str, description: dict, texts: Iterable[str], families: Mapping[str, type]) -> Loaded:
    family = family_of(description["kind"], name, families)
    tokenizer = family.scratch_tokenizer(texts, description["tokenizer"]["vocab_size"])
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
           "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return Loaded(family(family.scratch({**description["config"], **ids})), tokenizer, False)


def _pretrained(name: str, source: str, config, families: Mapping[str, type]) -> Loaded:
    remote = {"trust_remote_code": bool(config["trust_remote_code"])}
    if remote["trust_remote_code"]:
        log.warning("warning: trust_remote_code: Python code that comes with --llm=%s is run, with all your rights",
                    name)
    try:
        family = family_of(_kind(source, remote), name, families)
        # Frozen weights may be bf16; safetensors only, so that loading runs no code of the file's.
        dtype = compute_dtype(config, True) if config["device"].type == "cuda" else torch.float32
        model, tokenizer = family.pretrained(source, dtype, **remote)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if os.path.isdir(source):
            raise UserError(f"--llm={name} cannot be loaded: {first_sentence(error)}") from None
        raise UserError(f"--llm={name} is no backbone ({', '.join(property_names('backbone'))}), no folder with a "
                        f"model, and could not be had from the hub: {first_sentence(error)}") from None
    new = tokenizer.add_tokens([token for token in family.extra_tokens if token not in tokenizer.get_vocab()],
                               special_tokens=True) if family.adds_tokens else 0
    if new and len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    backbone = family(model)
    backbone.check()
    if config["lora_r"] is None:  # a model that is never trained has no such setting
        return Loaded(backbone, tokenizer, True)
    backbone.model = _with_lora(model, config, family, list(range(len(tokenizer) - new, len(tokenizer))))
    return Loaded(backbone, tokenizer, True)


def _kind(source: str, remote: dict) -> str:
    """Kind of architecture of a folder or hub id."""
    if is_glm(source):  # first: its files call themselves by the name of another model
        return "glm"
    try:
        return "seq2seq" if AutoConfig.from_pretrained(source, **remote).is_encoder_decoder else "causal"
    except ValueError:
        refuse_relatives(source)  # a better sentence, if it is one of them
        raise


def _with_lora(model: nn.Module, config, family: type, new_tokens: list[int]) -> nn.Module:
    """The model with LoRA adapters, and rows of its embedding for ``new_tokens``; all other weights are frozen."""
    import peft

    targets = config["lora_target_modules"]
    names = {module.rsplit(".", 1)[-1] for module, _ in model.named_modules()}
    if targets is None:
        # The paper's, where the architecture has them; else peft's own choice for it.
        targets = [target for target in family.lora_targets if target in names] or None
    else:
        targets = [targets] if isinstance(targets, str) else list(targets)
        if missing := [target for target in targets if target not in names]:
            raise UserError(f"lora_target_modules: {type(model).__name__} has no module '{missing[0]}'")
    tables = ["block_position_embeddings"] if config["train_block_positions"] else []
    if missing := [table for table in tables if table not in names]:
        raise UserError(f"train_block_positions: {type(model).__name__} has no {missing[0]}; GLM has them")
    # A head of its own has rows for them too; one that is tied to the embedding gets them from there.
    tied = getattr(model.config, "tie_word_embeddings", False)
    new_rows = new_tokens if tied or not new_tokens else {
        name: new_tokens for name, module in model.named_modules()
        if module is model.get_input_embeddings() or module is model.get_output_embeddings()}
    try:
        return peft.get_peft_model(model, peft.LoraConfig(
            r=config["lora_r"], lora_alpha=config["lora_alpha"], lora_dropout=config["lora_dropout"],
            target_modules=targets, bias="none", task_type=family.lora_task,
            trainable_token_indices=new_rows or None, modules_to_save=tables or None,
            fan_in_fan_out=model.config.model_type == "gpt2"))
    except ValueError as error:
        raise UserError(f"LoRA cannot be added: {first_sentence(error)}") from None
