"""Small atomic data sets for tests: interactions with times, items with titles and classes."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any, Callable, Iterable

import pandas as pd
import torch
import yaml

from recbole_genrec.config import Config
from recbole_genrec.data.loading import Data

NAME = "tiny"

#: What a properties/dataset file would say, with short histories.
SETTINGS = {
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "time",
    "load_col": {"inter": ["user_id", "item_id", "time"], "item": ["item_id", "title", "class"]},
    "title_field": "title", "true_time_field": "time", "item_attribute": "class", "selected_features": ["class"],
    "MAX_ITEM_LIST_LENGTH": 5, "topk": [1, 5, 10], "train_batch_size": 512, "eval_batch_size": 512,
}

Interactions = Iterable[tuple[str, str, float]]


def write_dataset(folder: Path, interactions: Interactions, titles: dict[str, str] | None = None,
                  classes: dict[str, str] | None = None, name: str = NAME, **settings: Any) -> Path:
    """Write ``<folder>/<name>/<name>.inter`` and ``.item``, and the settings to read them.

    Args:
        folder: the ``data_path``.
        interactions: ``(user, item, time)``, in the order of the file.
        titles: by item, "" for none; default: a made-up title for every item that occurs.
        classes: blank-separated classes by item.
        settings: over ``SETTINGS``.
    Returns:
        the YAML file for ``--config_files``; it holds the ``data_path`` too.
    """
    interactions = list(interactions)
    if titles is None:
        titles = {item: f"The {item} story" for item in dict.fromkeys(item for _, item, _ in interactions)}
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    rows = [f"{user}\t{item}\t{time!r}\n" for user, item, time in interactions]
    (target / f"{name}.inter").write_text("user_id:token\titem_id:token\ttime:float\n" + "".join(rows), "utf-8")
    rows = [f"{item}\t{title}\t{(classes or {}).get(item, 'plain')}\n" for item, title in titles.items()]
    (target / f"{name}.item").write_text("item_id:token\ttitle:token\tclass:token_seq\n" + "".join(rows), "utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "data_path": str(folder), **settings}), "utf-8")
    return path


def random_interactions(users: int = 50, items: int = 30, shortest: int = 5, longest: int = 9,
                        seed: int = 1) -> list[tuple[str, str, float]]:
    """Users without repeated items, times 1, 2, 3 ...; the lines of all users in a random order."""
    dice = random.Random(seed)
    rows = []
    for user in range(users):
        chosen = dice.sample(range(items), dice.randint(shortest, longest))
        rows += [(f"u{user}", f"i{item}", float(time)) for time, item in enumerate(chosen, 1)]
    dice.shuffle(rows)
    return rows


def config_of(yaml_file: Path, model: str = "Pop", name: str = NAME, **settings: Any) -> Config:
    """The configuration of a data set that :func:`write_dataset` wrote."""
    return Config(model, name, [yaml_file], settings)


def made(model: str, yaml_file: Path, **settings: Any) -> tuple[Any, Data]:
    """An untrained model, the same on every call, and its data."""
    config = config_of(yaml_file, model, **{"precision": "fp32", "gpu_id": "", **settings})
    data = Data.load(config)
    torch.manual_seed(1)
    return config.model_class(config, data.parts[0]).eval(), data


def load(yaml_file: Path, model: str = "Pop", name: str = NAME, **settings: Any) -> Data:
    """The data set, split."""
    return Data.load(config_of(yaml_file, model, name, **settings))


def records(output_dir: Path) -> list[dict[str, Any]]:
    """The run records under an output folder, in the order of the runs' folders."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((output_dir / "runs").glob("*/record.json"))]


def per_user(output_dir: Path, record: dict[str, Any]) -> pd.DataFrame:
    """The per-user table of a run, sorted by user."""
    table = pd.read_parquet(output_dir / "runs" / record["run_id"] / "per_user.parquet")
    return table.sort_values("user", ignore_index=True)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Return when it is true; fail if that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
