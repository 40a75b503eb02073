"""Tables as text: a row's columns become lines ``name: value``, the value an entity (Chu et al. 2023, "Data Phase")."""

from __future__ import annotations

from dataclasses import dataclass

from recbole.utils import FeatureType

from recbole_genrec.errors import UserError, did_you_mean


@dataclass
class Features:
    """Columns of a feature table, in the order in which they are written.

    Attributes:
        names: what stands before each column's values.
        values: for each column, one list of texts a row (internal id); empty where the value is missing.
    """

    names: list[str]
    values: list[list[list[str]]]

    @classmethod
    def of(cls, dataset, side: str, columns: list[str]) -> "Features":
        """Read the columns of RecBole's ``user`` or ``item`` table.

        Raises:
            UserError: a column that is not there.
        """
        table = getattr(dataset, f"{side}_feat")
        known = [] if table is None else [name for name in table.columns
                                          if name not in (dataset.uid_field, dataset.iid_field)]
        for column in columns:
            if column not in known:
                raise UserError(f"{side}_features: '{column}' is no column of the {side} table of "
                                f"'{dataset.dataset_name}', which has: {', '.join(known) or 'none'} (load_col.{side} "
                                "says what is loaded)" + did_you_mean(str(column), known))
        return cls([column.replace("_", " ") for column in columns],
                   [_texts(dataset, column, table[column]) for column in columns])

    def texts(self) -> list[str]:
        """All names and values, each once."""
        return [*(f"{name}:" for name in self.names),
                *sorted({f" {value}" for column in self.values for row in column for value in row})]


def _texts(dataset, column: str, values) -> list[list[str]]:
    kind = dataset.field2type[column]
    if kind == FeatureType.TOKEN:
        names = dataset.field2id_token[column]
        return [_kept([str(names[value])]) if value else [] for value in values.tolist()]
    if kind == FeatureType.TOKEN_SEQ:
        names = dataset.field2id_token[column]
        return [_kept([str(names[value]) for value in row if value]) for row in values.tolist()]
    if kind == FeatureType.FLOAT:
        # RecBole has filled in the mean where there was no number.
        missing = dataset.missing.get(column, frozenset())
        return [[] if row == 0 or row in missing else [f"{value:g}"] for row, value in enumerate(values.tolist())]
    raise UserError(f"column '{column}' is of type {kind.value} and cannot be written as text")


def _kept(texts: list[str]) -> list[str]:
    """Without what says that there is no value; white space as in titles."""
    texts = [" ".join(text.split()) for text in texts]
    return [text for text in texts if text and text.lower() not in ("nan", "none", "null", "[pad]")]
