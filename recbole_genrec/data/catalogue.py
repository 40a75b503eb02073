"""The catalogue: one readable title for every item id of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from recbole.utils import FeatureType

from recbole_genrec.errors import UserError
from recbole_genrec.template import cut


@dataclass
class Catalogue:
    """Titles by internal item id.

    Attributes:
        titles: ``[n_items]`` one line of text each, whitespace collapsed; "" for id 0 (padding). An item without a
            title is called ``item <id>`` after its raw id.
        item_tokens: ``[n_items]`` raw item ids.
        n_missing: how many items have no title of their own.
    """

    titles: list[str]
    item_tokens: list[str]
    n_missing: int

    @classmethod
    def from_dataset(cls, dataset) -> "Catalogue":
        """Read titles from the loaded ``.item`` columns, by ``title_field`` and ``title_format``.

        Raises:
            UserError: the format is none, or names a column that is not loaded.
        """
        config = dataset.config
        title_field = config["title_field"]
        template = config["title_format"]
        try:
            pieces = [(True, title_field)] if template is None else cut(template)
        except ValueError as error:
            raise UserError(f"title_format={template!r} cannot be used: {error}") from None
        fields = [piece for is_name, piece in pieces if is_name]
        for field in {title_field, *fields}:
            if field not in dataset.item_feat:
                raise UserError(f"title column '{field}' is not loaded: add it to load_col.item of the data set")
        tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
        columns = {field: _text_column(dataset, field) for field in {title_field, *fields}}
        titles, missing = [""], 0
        for item in range(1, dataset.item_num):
            if columns[title_field][item]:
                # A column other than the title may be empty ("Solo ()"): then the title stands alone.
                whole = all(columns[field][item] for field in fields)
                text = "".join(columns[piece][item] if is_name else piece for is_name, piece in pieces) if whole \
                    else columns[title_field][item]
            else:
                text, missing = f"item {tokens[item]}", missing + 1
            titles.append(" ".join(text.split()))
        return cls(titles, tokens, missing)


def _text_column(dataset, field: str) -> list[str]:
    """``[n_items]`` text of an ``.item`` column: a token is its raw string, a token sequence joined by blanks."""
    id_token, values = dataset.field2id_token.get(field), dataset.item_feat[field]
    kind = dataset.field2type[field]
    if kind == FeatureType.TOKEN:
        return ["" if index == 0 else str(id_token[index]).strip() for index in values.tolist()]
    if kind == FeatureType.TOKEN_SEQ:
        return [" ".join(str(id_token[index]) for index in row if index) for row in values.tolist()]
    raise UserError(f"title column '{field}' is of type {kind.value}: titles must be token or token_seq")
