"""Semantic ids: items with like titles share codes (TIGER, Rajput et al. 2023, arXiv:2305.05065), found offline.

A title becomes a vector; k-means codes the vectors, then what is left of them, and so on (residual quantisation, by
k-means in place of TIGER's RQ-VAE). The codes, coarse to fine, spell the item; items that share them all get a
last code, in a seeded order. Only the catalogue's titles are read, no user's sequence.

Vectors are TF-IDF of words reduced by truncated SVD (latent semantic analysis), which needs no download, or those of a
sentence-transformers model in the folder ``semantic_model``.
"""

from __future__ import annotations

import os
from collections import defaultdict

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from recbole_genrec.errors import UserError
from recbole_genrec.index.base import ItemIndex
from recbole_genrec.index.clustering import k_means
from recbole_genrec.index.codes import seeded_order, spell
from recbole_genrec.index.material import Material

#: Dimensions of the reduced TF-IDF vectors.
_DIMENSIONS = 64


def build(material: Material) -> ItemIndex:
    """Spell every item by its codes.

    Options: ``semantic_levels``, ``semantic_codes`` (a level's), ``semantic_model`` (None: TF-IDF).

    Raises:
        UserError: ``semantic_model`` cannot be used.
    """
    order = seeded_order(material)  # floating-point sums, and so all that follows, depend on the order of the rows
    titles = [material.catalogue.titles[item] for item in order]
    folder = material.options["semantic_model"]
    vectors = _tfidf(titles, material.seed) if folder is None else _sentences(titles, folder)
    levels = residual_codes(vectors, material.options["semantic_levels"], material.options["semantic_codes"],
                            material.seed)
    sharing = defaultdict(list)
    for item, *codes in zip(order.tolist(), *levels):
        sharing[tuple(map(int, codes))].append(item)
    paths: list[tuple[int, ...]] = [()] * len(order)
    for codes, items in sharing.items():
        for number, item in enumerate(items):
            paths[item - 1] = codes if len(items) == 1 and codes else (*codes, number)
    collided = [len(items) for items in sharing.values() if len(items) > 1]
    return spell(material, paths, {"codes_per_level": [int(level.max()) + 1 for level in levels],
                                   "items_sharing_codes": sum(collided)})


def residual_codes(vectors: np.ndarray, levels: int, codes: int, seed: int) -> list[np.ndarray]:
    """``[N]`` int64 codes of each level; fewer levels if nothing is left to tell apart.

    Args:
        vectors: ``[N, d]``.
        levels, codes: at most so many levels, of so many codes each.
    """
    found, left = [], vectors
    for level in range(levels):
        label, centre = k_means(left, codes, (seed + level) % 2**32)
        if len(centre) < 2:
            break
        found.append(label)
        left = left - centre[label]
    return found


def _tfidf(titles: list[str], seed: int) -> np.ndarray:
    """``[N, d]`` unit vectors, zeros for a title without a word."""
    try:
        counts = TfidfVectorizer(token_pattern=r"\w+", strip_accents="unicode", sublinear_tf=True).fit_transform(titles)
    except ValueError:  # no title has a word
        return np.zeros((len(titles), 1))
    with threadpool_limits(1):
        left, size, _ = randomized_svd(counts, min(_DIMENSIONS, *counts.shape), random_state=seed)
    return normalize(left * size)


def _sentences(titles: list[str], folder: str) -> np.ndarray:
    """``[N, d]`` unit vectors of a sentence-transformers model on this machine."""
    path = os.path.expanduser(folder)
    if not os.path.isdir(path):
        raise UserError(f"semantic_model={folder} is no folder; it must hold a sentence-transformers model")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(f"semantic_model={folder} needs the package sentence-transformers: pip install "
                        "sentence-transformers, or leave semantic_model out") from None
    try:
        model = SentenceTransformer(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"semantic_model={folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    return normalize(np.asarray(model.encode(titles, show_progress_bar=False), dtype=np.float64))
