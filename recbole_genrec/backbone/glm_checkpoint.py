"""The original GLM's published files: which folders hold one, its weights, and its tokenizer, without remote code."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.utils import cached_file

from recbole_genrec.backbone.glm import GLMConfig, GLMForConditionalGeneration
from recbole_genrec.errors import UserError, first_sentence

logger = logging.getLogger("recbole_genrec")

# ------------------------------------------------------------------------------------------------ which model it is


def is_glm(source: str) -> bool:
    """Whether a folder or hub id is an original GLM; False too where there is nothing to read.

    The published ``model_type`` is no sign: transformers gives it to GLM-4, and ``AutoConfig`` would answer with that.
    """
    try:
        return "block_position_encoding" in _facts(source)
    except UserError:
        return False


def refuse_relatives(source: str) -> None:
    """Say what a folder or hub id is if it is GLM-4 or a ChatGLM, which share GLM's name but not its architecture.

    Raises:
        UserError: it is one of these.
    """
    facts = _facts(source)
    kind = str(facts.get("model_type", ""))
    if "block_position_encoding" in facts or not kind.startswith(("glm", "chatglm")):
        return
    if facts.get("position_encoding_2d"):
        raise UserError(f"{source} is ChatGLM-6B, which is built otherwise than the original GLM: use a GLM such as "
                        "glm-10b, or a LLaMA-like model")
    name = "ChatGLM2, ChatGLM3 or GLM-4" if kind == "chatglm" else "GLM-4 or later"
    raise UserError(f"{source} is {name} (model_type '{kind}'), a causal model without blank infilling: use it as one, "
                    "like LLaMA, or take an original GLM such as glm-10b")


def _facts(source: str) -> dict:
    """The raw ``config.json`` of a folder or hub id."""
    try:
        return dict(PreTrainedConfig.get_config_dict(source)[0])
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two: JSON that is no table
        raise UserError(f"{source}: no config.json could be read ({first_sentence(error)})") from None


# ------------------------------------------------------------------------------------------------------- weights

#: Where weights may be, in the order in which they are looked for.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
           "mp_rank_00_model_states.pt")
TABLES = ("transformer.position_embeddings.weight", "transformer.block_position_embeddings.weight")


def load_glm(source: str, dtype: torch.dtype = torch.float32) -> GLMForConditionalGeneration:
    """The original GLM of a folder or hub id, in evaluation mode.

    Reads safetensors, ``pytorch_model.bin`` (tensors only: nothing in a file is run), shards of both, with and without
    the prefix ``glm.`` that transformers writes, and an unsplit Megatron file beside a ``config.json``. Position tables
    may have other sizes than the config says (glm-2b was trained with 512 positions, extended later): the file's count.

    Raises:
        UserError: another model, no weights, a damaged file, or keys and shapes other than the config's.
    """
    facts = _facts(source)
    if "block_position_encoding" not in facts:
        refuse_relatives(source)
        raise UserError(f"{source} is no original GLM (model_type '{facts.get('model_type', '')}'; its config.json has "
                        "no block_position_encoding)")
    facts.pop("torch_dtype", None)
    try:
        config = GLMConfig(**{**facts, "dtype": dtype, "name_or_path": source})
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: config.json describes no GLM ({first_sentence(error)})") from None
    weights: dict[str, Tensor] = {}
    for part in _parts(source):
        weights.update((name.removeprefix("glm."), tensor.to(dtype)) for name, tensor in part.items())
    _drop_tied(weights, source)
    _take_rows(config, weights, source)
    with torch.device("meta"):
        model = GLMForConditionalGeneration(config)
    expected = {name: weight.shape for name, weight in model.glm.state_dict().items()}
    if missing := [name for name in expected if name not in weights]:
        raise UserError(f"{source}: the weights lack '{missing[0]}' ({len(missing)} missing)")
    if unknown := [name for name in weights if name not in expected]:
        raise UserError(f"{source}: the weights have '{unknown[0]}', which GLM has not ({len(unknown)} such)")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise UserError(f"{source}: '{name}' is {list(weights[name].shape)}, "
                            f"and config.json makes it {list(shape)}")
    model.glm.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model.eval()


def _parts(source: str) -> Iterator[dict[str, Tensor]]:
    """The tensors of one file after the other."""
    path = next((found for name in WEIGHTS if (found := _file(source, name))), None)
    if path is None:
        raise UserError(f"{source}: there are no weights (none of {', '.join(WEIGHTS)})")
    if path.name.startswith("mp_rank") and _file(source, "mp_rank_01_model_states.pt"):
        raise UserError(f"{source}: the weights are split for model parallelism (there is an mp_rank_01): "
                        "merge them first")
    if path.name.endswith(".index.json"):
        try:
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{path} is no index of shards") from None
        for shard in shards:
            yield _read(_file(source, shard) or path.with_name(shard))
    else:
        yield _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
        UserError: damaged, or holding objects that only running its code would make.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Only torch's newer format can be mapped into memory instead of being read twice.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(f"{path} is damaged or holds more than tensors, and was not loaded: save its tensors alone, "
                        "at best as safetensors") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as weights ({first_sentence(error)})") from None
    if isinstance(state, dict) and isinstance(state.get("module"), dict):  # Megatron's
        state = state["module"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} is no table of tensors by name")
    return state


def _drop_tied(weights: dict[str, Tensor], source: str) -> None:
    """A state dict saved as it is names the tied table twice."""
    head = weights.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, weights.get("word_embeddings.weight", head)):
        raise UserError(f"{source}: lm_head.weight differs from word_embeddings.weight, and GLM's are one table")


def _take_rows(config: GLMConfig, weights: dict[str, Tensor], source: str) -> None:
    rows = {len(weights[name]) for name in TABLES if name in weights}
    if len(rows) > 1:
        raise UserError(f"{source}: the two position tables have {min(rows)} and {max(rows)} rows")
    if rows and rows != {config.max_sequence_length + 1}:
        found = rows.pop()
        logger.warning("%s: its position tables have %d rows, config.json makes it %d; max_sequence_length is now %d",
                       source, found, config.max_sequence_length + 1, found - 1)
        config.max_sequence_length = found - 1


# ------------------------------------------------------------------------------------------------------ tokenizer


@dataclass(frozen=True)
class Family:
    """Special tokens of one kind of vocabulary.

    Attributes:
        ids: every special token and its id in the published checkpoints, ascending.
        roles: token of each role of transformers' tokenizers.
        masks: entity, sentence, document mask.
    """

    ids: dict[str, int]
    roles: dict[str, str]
    masks: tuple[str, str, str]


START, END = "<|startofpiece|>", "<|endofpiece|>"
#: Special tokens of GPT-2's family in the order of their ids; a scratch tokenizer has them first.
SPECIALS = ("<|endoftext|>", START, END, "[CLS]", "[MASK]", "[SEP]", "[UNUSED]", "[gMASK]", "[sMASK]")
_GPT2_ROLES = {"cls": "[CLS]", "mask": "[MASK]", "pad": "<|endoftext|>", "eos": "<|endoftext|>", "sep": "[SEP]",
               "unk": "[UNUSED]"}
_ALL_MASKS = ("[MASK]", "[sMASK]", "[gMASK]")

#: The ids follow from the tokenizers that the checkpoints were trained with. eos is what ends a text: [SEP] in BERT's.
FAMILIES = {
    "gpt2": Family({token: 50256 + place for place, token in enumerate(SPECIALS)}, _GPT2_ROLES, _ALL_MASKS),
    "scratch": Family({token: place for place, token in enumerate(SPECIALS)}, _GPT2_ROLES, _ALL_MASKS),
    "bert": Family({"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, START: 30522, END: 30523},
                   {"cls": "[CLS]", "mask": "[MASK]", "pad": "[PAD]", "eos": "[SEP]", "sep": "[SEP]", "unk": "[UNK]"},
                   ("[MASK]",) * 3),
    "roberta": Family({"<s>": 0, "</s>": 2, "<unk>": 3, "<mask>": 50264, START: 50265, END: 50266},
                      {"cls": "<s>", "mask": "<mask>", "pad": "</s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"},
                      ("<mask>",) * 3),
}


def load_glm_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a published GLM: from tokenizer.json, vocab.txt (BERT) or vocab.json and merges.txt.

    Raises:
        UserError: none of these files, a damaged one, the Chinese vocabulary, or special tokens at other ids.
    """
    try:
        if path := _file(source, "tokenizer.json"):
            facts = json.loads(path.read_text(encoding="utf-8"))
            for token in facts["added_tokens"]:  # once added, a token cannot be changed
                token["lstrip"] |= token["content"] in {mask for family in FAMILIES.values() for mask in family.masks}
            return with_specials(Tokenizer.from_str(json.dumps(facts)), source)
        if path := _file(source, "vocab.txt"):
            return with_specials(_word_pieces(path), source)
        vocab, merges = _file(source, "vocab.json"), _file(source, "merges.txt")
        if vocab and merges:
            return with_specials(_byte_pairs(vocab, merges), source)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(f"{source}: the tokenizer's files cannot be read ({first_sentence(error)})") from None
    if _file(source, "cog-pretrain.model"):
        raise UserError(f"{source}: the Chinese GLM's sentencepiece vocabulary (cog-pretrain.model) is not supported: "
                        "use a GLM with an English vocabulary, such as glm-10b")
    raise UserError(f"{source}: there is no tokenizer (no tokenizer.json, vocab.txt, or vocab.json with merges.txt)")


def with_specials(tokenizer: Tokenizer, source: str = "the tokenizer") -> PreTrainedTokenizerFast:
    """Add GLM's special tokens where they are missing, verify the id of each, and wrap the result.

    A text becomes ``[CLS] text eos``; it is truncated at the left; masks swallow the blank before them.

    Args:
        tokenizer: of a known family; one trained from scratch has ``SPECIALS`` as its first tokens.
        source: what messages call it.
    Raises:
        UserError: an unknown family, or a token with another id.
    """
    family = _family_of(tokenizer, source)
    added = {token: AddedToken(token, lstrip=token in family.masks, normalized=False, special=True)
             for token in family.ids}
    # New ones are numbered in the order in which they come.
    tokenizer.add_special_tokens(list(added.values()))
    for token, expected in family.ids.items():
        if (found := tokenizer.token_to_id(token)) != expected:
            raise UserError(f"{source}: '{token}' has id {found} and must have {expected}: "
                            "this is not the vocabulary that the GLM was trained with")
    first, last = family.roles["cls"], family.roles["eos"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, family.ids[first]), (last, family.ids[last])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, truncation_side="left", padding_side="right",
                                   **{f"{role}_token": added[token] for role, token in family.roles.items()})


def glm_special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Ids by what the tokens are for: cls, eos, pad, start, end; and the masks entity, sentence, document.

    Vocabularies with one mask token (BERT's, RoBERTa's) use it at all three levels, as upstream does.
    """
    backend = tokenizer.backend_tokenizer
    family = _family_of(backend, "the tokenizer")
    names = {role: family.roles[role] for role in ("cls", "eos", "pad")} | {"start": START, "end": END}
    names |= dict(zip(("entity", "sentence", "document"), family.masks))
    return {role: backend.token_to_id(token) for role, token in names.items()}


def _family_of(tokenizer: Tokenizer, source: str) -> Family:
    if tokenizer.token_to_id("<|endoftext|>") == 0:
        return FAMILIES["scratch"]
    # RoBERTa's vocabulary holds GPT-2's, <|endoftext|> and all, in another order.
    for name, sign in (("roberta", "<mask>"), ("gpt2", "<|endoftext|>"), ("bert", "[PAD]")):
        if tokenizer.token_to_id(sign) is not None:
            return FAMILIES[name]
    raise UserError(f"{source}: the vocabulary is none of GLM's (no <|endoftext|>, <mask> or [PAD] in it)")


def _word_pieces(vocab: Path) -> Tokenizer:
    """BERT's, uncased."""
    tokenizer = Tokenizer(models.WordPiece.from_file(str(vocab), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_pairs(vocab: Path, merges: Path) -> Tokenizer:
    """GPT-2's and RoBERTa's."""
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# ---------------------------------------------------------------------------------------------------------- files


def _file(source: str, name: str) -> Path | None:
    """A file of a folder or hub id, or None if it has none of that name.

    Raises:
        UserError: the hub cannot be asked.
    """
    try:
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: {name} could not be had from the hub ({first_sentence(error)})") from None
    return None if path is None else Path(path)
