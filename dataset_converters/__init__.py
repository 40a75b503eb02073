"""Raw public dumps -> RecBole atomic files with titles.

``python -m dataset_converters SOURCE --help`` lists what each source reads. A source is one
module (see :mod:`dataset_converters.sequences`) that reads its own raw form and hands a
:class:`dataset_converters.atomic.Corpus` to the one shared writer, so that every data set
has the same columns, the same checks and the same report.
"""

__version__ = "1.0"
"""Version of the output: raised whenever the same input would give other bytes."""
