"""An ablation is data: ``properties/ablation/<name>.yaml`` says which settings are compared with which reference."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Iterable

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.settings import named_file, read_yaml

#: What the YAML may hold, and of what kind; the last three may be missing.
_KEYS = {"description": str, "models": list, "variants": dict, "needs": str, "x": str, "skip": dict}
_REQUIRED = ("description", "models", "variants")
#: What a variant may not set: the table compares on one data set, with the same seeds, in one folder.
_NOT_A_VARIANT = ("model", "dataset", "seed", "output_dir", "data_path")
_NAME = re.compile(r"\w[\w.+-]{0,59}")


@dataclass(frozen=True)
class Ablation:
    """Settings to compare.

    Attributes:
        name: how records call it.
        description: one sentence for the table.
        models: the models that it is for.
        variants: by name, what each sets over everything else; the first is the reference.
        needs: ``"pretrained"`` if the backbone must have been trained before.
        x: the key that a numeric sweep varies, or None.
        skip: by model, the variants that say nothing about it, each with the reason.
    """

    name: str
    description: str
    models: list[str]
    variants: dict[str, dict[str, Any]]
    needs: str | None = None
    x: str | None = None
    skip: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The variant that all others are compared with."""
        return next(iter(self.variants))

    def skipped(self, model: str) -> dict[str, str]:
        """The variants that are not run for a model, with the reasons."""
        return self.skip.get(model, {})

    def check_models(self, models: Iterable[str]) -> None:
        """Refuse a model that the ablation is not for."""
        for model in models:
            if model not in self.models:
                raise UserError(f"ablation '{self.name}' is for {', '.join(self.models)}, not for '{model}'")

    def check_keys(self, known: Iterable[str]) -> None:
        """Refuse a variant that sets what is not among the ``known`` keys of a model."""
        known = set(known)
        for variant, settings in self.variants.items():
            for key in settings:
                if key not in known:
                    raise UserError(f"ablation '{self.name}', variant '{variant}': unknown configuration key '{key}'"
                                    + did_you_mean(str(key), known))

    def check_config(self, config) -> None:
        """Refuse a configuration whose runs could not be compared.

        Raises:
            UserError: no ndcg@10 or hit@10 is measured, or the backbone is not what the ablation needs.
        """
        if 10 not in config["topk"] or not {"ndcg", "hit"} <= {metric.lower() for metric in config["metrics"]}:
            raise UserError(f"--ablation compares ndcg@10 and hit@10, which topk={config['topk']} and "
                            f"metrics={config['metrics']} do not measure")
        if self.needs == "pretrained":
            from recbole_genrec.backbone.loading import resolve

            if isinstance(resolve(str(config["llm"])), dict):
                raise UserError(f"ablation '{self.name}' needs a pre-trained backbone and --llm={config['llm']} is a "
                                "scratch one, which trains all its weights: give --llm=FOLDER or a hub id")


def read_ablation(name: str) -> Ablation:
    """The ablation of that name in ``properties/ablation/``, or in a YAML file of the user's own.

    Raises:
        UserError: no such ablation, or a YAML that does not say what it should.
    """
    path = named_file("ablation", name)
    content = read_yaml(path)
    name = path.stem

    def wrong(what: str) -> UserError:
        return UserError(f"ablation '{name}': {what}")

    if not _NAME.fullmatch(name):
        raise wrong("its file's name must be letters, digits, '.', '_', '+' and '-', up to 60")
    for key in content:
        if key not in _KEYS:
            raise wrong(f"unknown key '{key}'" + did_you_mean(str(key), _KEYS))
    for key in _REQUIRED:
        if not content.get(key):
            raise wrong(f"'{key}' is missing")
    content = {key: value for key, value in content.items() if value is not None}
    for key, value in content.items():
        if not isinstance(value, _KEYS[key]):
            kind = {str: "a text", list: "a list", dict: "a mapping"}[_KEYS[key]]
            raise wrong(f"{key}={value!r} must be {kind}")
    content["variants"] = {variant: {} if settings is None else settings
                           for variant, settings in content["variants"].items()}
    ablation = Ablation(name, **{**content, "description": " ".join(content["description"].split())})
    if problem := _problem(ablation):
        raise wrong(problem)
    return ablation


def _problem(ablation: Ablation) -> str | None:
    """What makes no sense in it, or None."""
    if bad := [model for model in ablation.models if not isinstance(model, str)]:
        return f"models holds {bad[0]!r}, which is no text"
    if ablation.needs not in (None, "pretrained"):
        return f"needs={ablation.needs!r} is not 'pretrained'"
    for variant, settings in ablation.variants.items():
        if not isinstance(variant, str):
            return f"the variant name {variant!r} is no text (YAML reads on, off, yes and no as such: quote them)"
        if not _NAME.fullmatch(variant):
            return f"the variant name '{variant}' must be letters, digits, '.', '_', '+' and '-', up to 60"
        if not isinstance(settings, dict):
            return f"variant '{variant}' must be a mapping of settings, not {settings!r}"
        if fixed := [key for key in settings if key in _NOT_A_VARIANT]:
            return f"variant '{variant}' may not set '{fixed[0]}'"
    if len(ablation.variants) < 2:
        return "there is nothing to compare with the reference: 'variants' holds one only"
    if ablation.x is not None:
        values = {variant: settings.get(ablation.x) for variant, settings in ablation.variants.items()}
        for variant, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                return f"x is '{ablation.x}', and variant '{variant}' gives it no number above 0"
    for model, reasons in ablation.skip.items():
        if model not in ablation.models:
            return f"skip names '{model}'" + (did_you_mean(str(model), ablation.models) or ", which models does not")
        if not isinstance(reasons, dict) or not all(isinstance(reason, str) for reason in reasons.values()):
            return f"skip of '{model}' must be a mapping of variants to reasons"
        for variant in reasons:
            if variant not in ablation.variants:
                return f"skip names no variant: '{variant}'" + did_you_mean(str(variant), ablation.variants)
        if ablation.reference in reasons:
            return f"the reference '{ablation.reference}' cannot be skipped"
    return None
