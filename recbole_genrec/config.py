"""RecBole's Config with our protocol and typed overrides.

Order of precedence, lowest first: RecBole's defaults, ``properties/overall.yaml``, the model's YAML, the data
set's YAML, ``config_files``, command line. A dictionary given for a key that already holds one
(``eval_args``, ``load_col``) is merged key by key: RecBole replaces it, and an ``eval_args`` without ``split``
silently becomes a random split.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterable

import recbole.config

from recbole_genrec.errors import UserError
from recbole_genrec.model.registry import get_model
from recbole_genrec.running.parallel import own_gpu
from recbole_genrec.settings import merge, our_properties, read_yaml
from recbole_genrec.validation import check_kinds, check_values


class Config(recbole.config.Config):
    """RecBole's Config for this project. Does not read ``sys.argv`` and never calls ``eval`` on a value.

    Args:
        model: name of a model of ours or of RecBole's.
        dataset: name of a data set.
        config_file_list: YAML files, later ones over earlier ones.
        config_dict: typed overrides, over everything else.
    Raises:
        UserError: unknown model, value of a wrong kind or out of range, unreadable file; one sentence each.
    """

    def __init__(self, model: str, dataset: str, config_file_list: Iterable[str] | None = None,
                 config_dict: dict[str, Any] | None = None):
        # The class, not the name: RecBole would look up the name itself and find its general ``Pop``.
        model_class = get_model(model)
        try:
            super().__init__(model_class, dataset, list(config_file_list or []), dict(config_dict or {}))
        except UserError:
            raise
        except Exception as error:  # RecBole has a type of its own for every bad value
            raise UserError(f"RecBole refuses this configuration: {type(error).__name__}: {error}") from error
        check_values(self)

    def _load_config_files(self, file_list):
        merged: dict[str, Any] = {}
        for file in file_list:
            merged = merge(merged, read_yaml(file))
        return merged

    def _convert_config_dict(self, config_dict):
        return config_dict

    def _load_cmd_line(self):
        return {}

    def _merge_external_config_dict(self):
        self.external_config_dict = merge(self.file_config_dict, self.variable_config_dict)

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        self.internal_config_dict = merge(self.internal_config_dict, our_properties(model, dataset))

    def _get_final_config_dict(self):
        final = merge(self.internal_config_dict, self.external_config_dict)
        if final["loss_type"] == "BPR" and final["train_neg_sample_args"] is None:
            final["train_neg_sample_args"] = {"distribution": "uniform", "sample_num": 1}  # RecBole's default
        if final.get("period_sampling") is False:  # YAML reads a bare off so
            final["period_sampling"] = "off"
        if final.get("gpu_id") is None or not final["use_gpu"]:
            final["gpu_id"] = ""
        final["gpu_id"] = own_gpu(str(final["gpu_id"]))
        check_kinds(final, self.internal_config_dict)  # before RecBole works with them: its errors do not name the key
        return final

    def _set_default_parameters(self):
        folder = Path(self.final_config_dict["data_path"]) / self.dataset
        super()._set_default_parameters()
        if os.path.isdir(folder):  # RecBole always takes its own copy of ml-100k
            self.final_config_dict["data_path"] = str(folder)
