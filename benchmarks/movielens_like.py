"""Files in MovieLens-25M's exact format, of any size: ids, long tail and times are random, titles are numbered."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

GENRES = ["Action", "Adventure", "Children", "Comedy", "Crime", "Documentary", "Drama", "Horror", "Romance", "Thriller"]


def write(folder: Path, users: int, films: int, ratings: int, seed: int = 2023) -> None:
    """Write ``ratings.csv`` (by user, then film, as released) and ``movies.csv``.

    Args:
        users: hardly any has fewer than 20 ratings, the busiest have thousands.
        films: the catalogue; some films stay unrated, as in the release.
        ratings: exact number of lines; no film twice by one user.
    """
    dice = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    taken = _pairs(dice, users, films, ratings)
    user, film = taken // films, taken % films
    del taken
    joined = dice.integers(820_454_400, 1_570_000_000, users)  # 1996 .. 2019
    moment = joined[user] + dice.integers(0, 100_000, ratings, dtype=np.int32)
    scores = pa.array([f"{half / 2:.1f}" for half in range(1, 11)])
    score = pa.DictionaryArray.from_arrays(dice.integers(0, 10, ratings, dtype=np.int8), scores).cast(pa.string())
    table = pa.table({"userId": user + 1, "movieId": (film + 1) * 3, "rating": score, "timestamp": moment})
    csv.write_csv(table, folder / "ratings.csv", csv.WriteOptions(quoting_style="none", quoting_header="none"))
    with open(folder / "movies.csv", "w", encoding="utf-8", newline="\r\n") as file:
        file.write("movieId,title,genres\n")
        for number in range(films):
            year, genre = 1920 + number % 100, GENRES[number % len(GENRES)]
            title = f'"Long Way to No. {number}, The ({year})"' if number % 4 == 0 else f"Number {number} ({year})"
            file.write(f"{(number + 1) * 3},{title},{genre}|{GENRES[number % 7]}\n")


def _pairs(dice: np.random.Generator, users: int, films: int, ratings: int) -> np.ndarray:
    """int64 ``[ratings]`` distinct ``user * films + film``, sorted: by user, then film."""
    chance = 1 / (np.arange(films) + 20.0) ** 0.9
    chance = np.cumsum(chance[dice.permutation(films)])
    activity = np.cumsum(0.5 + dice.lognormal(0.0, 1.3, users))
    taken = np.zeros(0, dtype=np.int64)
    while len(taken) < ratings:
        count = (ratings - len(taken)) * 5 // 4 + 1000
        user = np.searchsorted(activity, dice.random(count) * activity[-1])
        film = np.searchsorted(chance, dice.random(count) * chance[-1])
        taken = np.unique(np.concatenate([taken, user * films + film]))
    return np.delete(taken, dice.choice(len(taken), len(taken) - ratings, replace=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("users", "films", "ratings"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    write(options.folder, options.users, options.films, options.ratings)
