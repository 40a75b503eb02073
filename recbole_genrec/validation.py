"""What a configuration may say: every mistake is one sentence, found before anything is trained."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterable

import recbole

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.index.registry import find_index
from recbole_genrec.running import parallel
from recbole_genrec.settings import our_properties, property_file, property_names, read_yaml


@lru_cache(maxsize=None)
def known_keys(model: str, dataset: str) -> frozenset[str]:
    """Every configuration key that something reads for this model on this data set."""
    from recbole.utils import argument_list

    keys = {key for name in ("general", "training", "evaluation", "dataset")
            for key in getattr(argument_list, f"{name}_arguments")}
    recbole_properties = Path(recbole.__file__).parent / "properties"
    for name in ("overall", f"model/{model}", "dataset/sample", "quick_start_config/sequential"):
        path = recbole_properties / f"{name}.yaml"
        if path.is_file():
            keys |= read_yaml(path).keys()
    keys |= our_properties(model, dataset).keys()
    for name in property_names("dataset"):  # a data set of the user's own may say what ours say
        keys |= read_yaml(property_file("dataset", name)).keys()
    return frozenset(keys) | {"encoding", "numerical_features", "discretization", "worker"}


def check_keys(given: Iterable[str], models: Iterable[str], datasets: Iterable[str]) -> None:
    """Refuse a key that none of the models reads, naming the nearest key that one of them does.

    Raises:
        UserError: for the first unknown key.
    """
    datasets = list(datasets)
    known = {key for model in models for dataset in datasets for key in known_keys(model, dataset)}
    for key in given:
        if key not in known:
            raise UserError(f"unknown configuration key '{key}'" + did_you_mean(str(key), known))


_LARGEST = sys.float_info.max  # more is infinite, or an integer that no float holds
#: key -> (type, smallest allowed, largest allowed); a key is checked only where it is set and not None.
_NUMBERS = {
    "epochs": (int, 0, None), "metric_decimal_place": (int, 1, None), "train_batch_size": (int, 1, None),
    "eval_batch_size": (int, 1, None),
    "MAX_ITEM_LIST_LENGTH": (int, 1, None), "learning_rate": (float, 0, None), "weight_decay": (float, 0, None),
    "eval_step": (int, 0, None), "stopping_step": (int, 0, None), "seed": (int, 0, 2**32 - 1),
    "lora_r": (int, 1, None), "lora_alpha": (float, 0, None), "lora_dropout": (float, 0, 1),
    "num_beams": (int, 1, None), "warmup_steps": (int, 0, None), "max_prompt_tokens": (int, 16, None),
    "decode_budget": (int, 1, None), "validity_users": (int, 0, None),
    "max_train_minutes": (float, 0, None), "checkpoint_minutes": (float, 0, None), "pretrain_epochs": (int, 0, None),
    "hidden_dropout_prob": (float, 0, 1), "attn_dropout_prob": (float, 0, 1), "dropout_prob": (float, 0, 1),
    "hidden_size": (int, 1, None), "n_layers": (int, 1, None), "n_heads": (int, 1, None),
    "gradient_accumulation_steps": (int, 1, None), "max_history_items": (int, 1, None),
    "infill_share": (float, 0, 1), "item_dropout": (float, 0, 0.9), "item_prior": (float, 0, None),
    "label_smoothing": (float, 0, 0.9), "members": (int, 1, None),
    "ema_decay": (float, 0, 0.99999), "target_stride": (int, 1, None), "mask_ratio": (float, 0, 1),
    "entity_bias": (float, 0, None), "last_bias": (float, 0, 1), "candidate_count": (int, 2, None),
    "candidates": (int, 2, None), "candidate_seed": (int, 0, 2**32 - 1), "concurrency": (int, 1, 256),
    "requests_per_minute": (int, 1, None), "request_timeout": (float, 0.01, None), "request_retries": (int, 0, 100),
    "prompt_price": (float, 0, None), "completion_price": (float, 0, None), "max_answer_tokens": (int, 1, None),
    "semantic_levels": (int, 1, None), "semantic_codes": (int, 2, None), "collaborative_children": (int, 2, None),
}
#: key -> what its value must be, where it is set and not None.
KINDS = {
    "about": dict, "load_col": dict, "eval_args": dict, "clip_grad_norm": dict, "data_path": str,
    "valid_metric": str, "output_dir": str, "llm": str, "prompt": str, "title_field": str, "title_format": str,
    "true_time_field": str, "period_sampling": str, "user_features": list, "item_features": list,
    "mask_levels": dict, "task_families": dict, "USER_ID_FIELD": str, "ITEM_ID_FIELD": str, "TIME_FIELD": str,
    "item_index": str, "item_reader": str, "settings_label": str, "semantic_model": str, "field_separator": str,
    "seq_separator": str, "encoding": str, "endpoint": str, "api_key_env": str, "llm_cache": str,
    "request_options": dict, "metrics": (str, list), "lora_target_modules": (str, list), "period_days": list,
    "train_stage": str,
}
_KIND_NAMES = {dict: "a mapping", str: "a text", list: "a list", (str, list): "a text or a list of texts"}
#: Of the choices below, those that may be left open.
_MAY_BE_NULL = {"mask_history", "lr_scheduler_type"}
_CHOICES = {
    "layout": ("per_target", "shared_prefix", "continuation"), "decode": ("beam", "exact_topk", "exact_all", "free"),
    "norm": ("full", "trie"),
    "objective": ("vocabulary", "catalogue"), "precision": ("auto", "fp32", "bf16"),
    "mask_history": (True, False), "repeat_consumption": (True, False), "test_unmasked": (True, False),
    "train_on_prompt": (True, False), "item_embedding": (True, False),
    "resume": (True, False), "force": (True, False), "fsdp": (True, False),
    "trust_remote_code": (True, False), "gradient_checkpointing": (True, False), "torch_compile": (True, False),
    "loss_type": ("CE", "BPR"), "prompt_eval": ("seen", "unseen", "both"),
    "period_sampling": ("items", "samples", "off"),
    "entity_mask": (True, False), "span_order": ("chronological", "shuffled"), "entity_positions": (True, False),
    "plain_positions": ("grow", "literal"), "dynamic_positions": (True, False),
    "prefix_attention": ("causal", "bidirectional"), "train_block_positions": (True, False), "last_only": (True, False),
    "mode": ("rank", "score", "generate"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "lr_scheduler_type": ("constant", "constant_with_warmup", "linear", "cosine"),
}


#: Keys that have a value unless they are set to none, and may be: none means off, or everything.
_CAN_BE_TAKEN_OUT = {"about", "load_col", "clip_grad_norm", "warmup_steps", "decode_budget", "checkpoint_minutes",
                     "title_field", "title_format", "true_time_field", "user_features", "item_features"}


def check_processes(config) -> None:
    """Refuse what several processes cannot do, or one alone."""
    model = config.model_class
    if parallel.size() > 1 and model.__name__ == "ZeroShotLLM":
        raise UserError("ZeroShotLLM trains nothing and keeps its own pace: run it in one process, without torchrun")
    if parallel.size() > 1 and config["enable_scaler"]:
        raise UserError("enable_scaler=true scales each process's gradients by itself: leave it out under torchrun "
                        "(precision=bf16 needs none)")
    if config["fsdp"]:
        if not getattr(model, "generative", False):
            raise UserError(f"fsdp=true cuts the layers of a language model, and {model.__name__} has none")
        if parallel.size() == 1:
            raise UserError("fsdp=true needs several processes to cut layers for: "
                            "torchrun --nproc_per_node=2 run_benchmark.py ...")


def check_kinds(settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse values of another kind than their keys', and none where there is a default."""
    for key in sorted((_NUMBERS.keys() | KINDS.keys()) & settings.keys() - _CAN_BE_TAKEN_OUT):
        if settings[key] is None and defaults.get(key) is not None:
            raise UserError(f"{key} has no value")
    for key, kind in KINDS.items():
        value = settings.get(key)
        texts = not isinstance(kind, tuple) or not isinstance(value, list) or all(isinstance(one, str) for one in value)
        if value is not None and not (isinstance(value, kind) and texts):
            raise UserError(f"{key}={value!r} must be {_KIND_NAMES[kind]}")
        if value == "" and kind is str:
            raise UserError(f"{key} is empty")
    topk = settings["topk"]
    if not topk or not all(type(k) is int and k > 0 for k in (topk if isinstance(topk, list) else [topk])):
        raise UserError(f"topk={topk!r} must be whole numbers, at least 1")


def check_values(config) -> None:
    topk = config["topk"]
    metric, _, k = config["valid_metric"].partition("@")
    if metric.lower() not in map(str.lower, config["metrics"]) or k not in map(str, topk):
        raise UserError(f"valid_metric={config['valid_metric']} is not measured: metrics={config['metrics']}, "
                        f"topk={topk}")
    for key, (kind, low, high) in _NUMBERS.items():
        value = config[key]
        if value is None:
            continue
        right_type = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        if not right_type or not low <= value <= (_LARGEST if high is None else high):
            span = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{key}={value!r} must be {'a number' if kind is float else 'a whole number'} {span}")
    for key, choices in _CHOICES.items():
        value = config[key]
        if value is None and (key not in config or key in _MAY_BE_NULL):
            continue
        if value not in choices:
            allowed = ", ".join(str(choice).lower() if isinstance(choice, bool) else choice for choice in choices)
            raise UserError(f"{key}={value!r} is not one of {allowed}"
                            + did_you_mean(str(value), [str(choice) for choice in choices]))
    if config["pre_model_path"]:
        raise UserError(f"pre_model_path={config['pre_model_path']}: a checkpoint of RecBole's is a pickle and is not "
                        "loaded; S3Rec pre-trains and fine-tunes in one run (train_stage=pretrain)")
    if config["model"] == "S3Rec" and config["train_stage"] != "pretrain":
        raise UserError(f"train_stage={config['train_stage']}: S3Rec pre-trains and fine-tunes in one run "
                        "(train_stage=pretrain)")
    for key in ("save_dataset", "save_dataloaders"):
        if config[key]:
            raise UserError(f"{key}=true: RecBole would write a pickle; data are read from their files, in seconds")
    check_candidates(config)
    check_processes(config)
    if "item_index" in config:
        find_index(config["item_index"])
    if config["decode"] == "beam" and config["num_beams"] is not None and config["num_beams"] < max(topk):
        raise UserError(f"num_beams={config['num_beams']} is fewer than the largest topk ({max(topk)})")


def check_candidates(config) -> None:
    """Refuse candidates that cannot be ranked as the rest of the configuration says."""
    count, mode = config["candidates"], config["eval_args"]["mode"]
    if count is None:
        return
    if count < max(config["topk"]):
        raise UserError(f"candidates={count} is fewer than the largest topk ({max(config['topk'])})")
    if other := sorted(set(mode.values()) - {"full"}):
        raise UserError(f"candidates={count} takes the place of RecBole's sampling: set eval_args.mode to full, not "
                        f"{other[0]}, or leave candidates out")
