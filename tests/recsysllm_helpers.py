"""A small data set with users' features for RecSysLLM, and models whose rankings have no near-ties."""

from __future__ import annotations

from pathlib import Path

import data_helpers
import torch
from data_helpers import random_interactions, write_dataset

from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.model.sequential_recommender.recsysllm import RecSysLLM

LLMS = ["tiny-glm", "tiny-llama", "tiny-t5"]
ITEMS = 40


def write_users(folder: Path) -> Path:
    """A data set with a ``.user`` file; its settings."""
    titles = {f"i{n}": f"Alpha{n} Beta{n % 7} {'Gamma ' * (n % 3)}Delta" for n in range(ITEMS)}
    titles["i1"] = titles["i0"].rsplit(" ", 1)[0]  # a prefix of another
    path = write_dataset(folder, random_interactions(30, ITEMS, 6, 12), titles)
    (path.parent / "tiny" / "tiny.user").write_text(
        "user_id:token\tage:token\tgender:token\thobbies:token_seq\n"
        + "".join(f"u{n}\t{20 + n}\t{'' if n % 4 == 0 else 'MF'[n % 2]}\tchess old books\n" for n in range(30)))
    return path


def made(dataset: Path, **settings) -> tuple[RecSysLLM, Data]:
    load_col = {"inter": ["user_id", "item_id", "time"], "item": ["item_id", "title", "class"],
                "user": ["user_id", "age", "gender", "hobbies"]}
    model, data = data_helpers.made("RecSysLLM", dataset, **{
        "target_stride": 1, "max_history_items": 6, "user_features": ["age", "gender", "hobbies"],
        "load_col": load_col, **settings})
    for weight in model.parameters():  # far from flat, so that rankings have no near-ties
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.25)
    return model, data


def text_of(model: RecSysLLM, tokens) -> str:
    return model.tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)


def some_users(data: Data, users: int = 8):
    return data.parts[2].inter_feat[torch.arange(users)]


def rows_of_training(data: Data) -> list[int]:
    return data.parts[0].inter_feat[TARGET_ROW].tolist()
