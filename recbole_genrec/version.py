"""The package's version, in one place (read by ``setup.py`` and written into every result record)."""

__version__ = "0.3.0"
