"""Titles as a reader of the shop would see them: entities, tags and stray characters resolved."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Iterable

_ATTRIBUTE = r"""\s+[a-z-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
# Only tags that shops do use, spelled as tags are: "<3", "< 5 lbs" and "<Title>" are text.
_TAG = re.compile(
    r"</?(?:(?P<block>br|p|div|li|ul|ol|tr|td|table|center|h[1-6]|img)"
    r"|b|i|u|s|a|em|strong|span|font|sup|sub|small|big)"
    rf"(?:{_ATTRIBUTE})*\s*/?>",
    re.IGNORECASE,
)
# Unicode's Cc, and lone surrogates, which JSON can spell and UTF-8 cannot.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ARTICLES = (
    "The|An?|Les?|La|L'|Une?|El|Los|Las|Una|Il|Lo|Gli|Der|Die|Das|Den|Det|De|Het|Een|Ein|Eine|En|Ett"
)
# The part before a trailing article ends at a parenthesis: an alternative title in
# parentheses has its own. "I" and "O" are left alone: "Me, Myself, I" has no article.
_TRAILING_ARTICLE = re.compile(rf"([^\s()][^()]*), ({_ARTICLES})(?=\s*(?:[()]|$))")
_BEFORE_COLON = re.compile(rf"^([^\s():][^():]*), ({_ARTICLES})(?=:\s)")


def _clean_once(title: str) -> str:
    title = html.unescape(title)
    title = _TAG.sub(lambda tag: " " if tag["block"] else "", title)
    title = " ".join(title.split())  # any Unicode blank, before tabs go as control characters
    return unicodedata.normalize("NFC", _CONTROL.sub("", title))


def clean_title(title: str) -> str:
    """One line of plain text: entities unescaped (also those escaped twice), HTML tags and
    control characters removed, Unicode NFC, every run of white space one blank. Case and
    punctuation stay. ``clean_title(clean_title(t)) == clean_title(t)``.
    """
    while (cleaned := _clean_once(title)) != title:
        title = cleaned  # one step can uncover work for another: "&amp;lt;b&amp;gt;"
    return title


def natural_order(title: str) -> str:
    """Put MovieLens' trailing articles in front: ``"Matrix, The (1999)"`` becomes
    ``"The Matrix (1999)"``, also inside parentheses: ``"Postino, Il (Postman, The) (1994)"``
    and before a subtitle: ``"Crow, The: Wicked Prayer"``.
    """

    def swap(match: re.Match[str]) -> str:
        head, article = match.groups()
        return f"{article}{head}" if article.endswith("'") else f"{article} {head}"

    return _TRAILING_ARTICLE.sub(swap, _BEFORE_COLON.sub(swap, title))


def token_names(raw: Iterable[str]) -> str:
    """Names as one ``token_seq`` field: cleaned, each once, in order of first mention. RecBole
    splits the field at blanks, so a name's own become underscores."""
    return " ".join(dict.fromkeys(n for name in raw if (n := clean_title(name).replace(" ", "_"))))
