"""What a record may hold where it is read again: its file may be damaged, or written by anybody."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

#: Keys of texts, even where one looks like a number, as a hash such as "12e456789012" does.
TEXTS = ("run_id", "timestamp", "dataset", "model", "status", "reason", "version", "backbone", "item_index", "prompts",
         "ablation", "variant", "settings_label", "config_hash", "reference_hash", "variant_hash",
         "dataset_fingerprint", "split_fingerprint", "prompt_fingerprint", "trie_fingerprint", "numbering_fingerprint",
         "candidates_fingerprint", "audit", "decode", "norm", "layout", "objective")
_NUMBERS = ("seed", "users", "candidates", "candidate_seed", "train_seconds", "eval_users_per_second", "peak_memory_mb",
            "peak_device_memory_mb", "trainable_parameters", "total_parameters", "targets_per_second",
            "tokens_per_second", "padding_share", "flops_per_target", "exact_share", "epochs_done", "valid_rate",
            "duplicate_rate", "near_miss_rate", "empty_rate", "parse_rate", "cost_usd", "mask_history", "leaky")
#: A metric of RecBole's at some k, as it is, unmasked or of untied users.
RECORDED_METRIC = re.compile(r"[a-z]+@\d+(_unmasked|_untied)?")
#: Mappings of whatever is only shown, and of figures that are worked with.
_SHOWN, _OF_NUMBERS = ("machine", "versions", "leakage"), ("valid", "index_leak")


def check_form(record: Any) -> None:
    """Refuse a record that no run has written; a value may be missing or None.

    Raises:
        ValueError: says what is not of its kind.
    """
    _mapping("the record", record)
    if not isinstance(record.get("run_id"), str):
        raise ValueError("run_id is no text")
    for key in TEXTS:
        if not isinstance(record.get(key), (str, type(None))):
            raise ValueError(f"{key} is no text")
    _numbers("the record", record, [*_NUMBERS, *(key for key in record if RECORDED_METRIC.fullmatch(key))])
    for key in _SHOWN:
        _mapping(key, record.get(key) or {})
    for key in _OF_NUMBERS:
        _numbers(key, record.get(key) or {})
    for name, metrics in _mapping("other_prompts", record.get("other_prompts") or {}).items():
        _numbers(name, metrics)
    points = record.get("curve") or []
    if not isinstance(points, list):
        raise ValueError("curve is no list")
    for point in points:
        _numbers("a point of curve", point, ["loss", "seconds"])
        _numbers("valid in curve", point.get("valid") or {})


def _mapping(name: str, value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no mapping")
    return value


def _numbers(name: str, mapping: Any, keys: Iterable[str] | None = None) -> None:
    """Each of the keys, or of all, has a number that a float holds; NaN is what an empty mean is."""
    for key in _mapping(name, mapping) if keys is None else keys:
        value = _mapping(name, mapping).get(key)
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{key} is no number")
        if isinstance(value, int) and value.bit_length() > 1000 or isinstance(value, float) and math.isinf(value):
            raise ValueError(f"{key} is beyond all numbers")
