"""Raw public dumps -> RecBole atomic files with titles.

``python -m dataset_converters SOURCE --help`` lists what each source reads. Data flow one way:

    raw files -> :mod:`reading` (blocks of whole lines, by :mod:`encoding` UTF-8) -> :mod:`parsing` (columns, rejects)
    -> :mod:`interactions` (one compact table, resumable by :mod:`staging`) -> :mod:`corpus`
    -> :mod:`filtering` -> :mod:`ordering` (ties, item ids) -> :mod:`atomic` (the one writer)

A source is one module (``movielens``, ``amazon``, ``yelp``, ``sequences``) that knows the raw
form and hands over a :class:`dataset_converters.corpus.Corpus`; all else is shared, so every
data set has the same columns, the same checks and the same report.

The columnar library is pyarrow. We cut the text into blocks of whole lines ourselves and give
them to its kernels, so that a malformed line keeps its number in every form (CSV, ``::``, JSON):
polars and duckdb read faster still, but lose the number of a bad JSON line.
"""

__version__ = "2.1"
"""Version of the output: raised whenever the same input would give other bytes."""
