"""Templates: wording with slots for what differs from text to text, cut into pieces to tokenise."""

from __future__ import annotations

import string
from dataclasses import dataclass

from recbole_genrec.errors import UserError, did_you_mean

#: What a template may leave room for: lines of the user's features, lines of behaviours, lines of candidates, and the
#: mask where the answer belongs.
SLOTS = ("user", "history", "candidates", "mask")


def cut(text: str) -> list[tuple[bool, str]]:
    """A format string that names things and does nothing else: ``(is_name, text or name)``, in order.

    Raises:
        ValueError: braces that do not match, or more than a name between them: ``{title:>9999999999}`` would be a title
            of ten gigabytes.
    """
    pieces = []
    for literal, name, form, conversion in string.Formatter().parse(text):
        if form or conversion:
            raise ValueError(f"'{name}' must stand alone between its braces")
        pieces += [(False, literal)] * bool(literal) + ([] if name is None else [(True, name)])
    return pieces


@dataclass(frozen=True)
class Template:
    """One wording: pieces of text and slots, in order.

    Attributes:
        pieces: ``(is_slot, text or name of the slot)``.
    """

    pieces: tuple[tuple[bool, str], ...]

    @classmethod
    def parse(cls, text: str, words: dict[str, str], slots: set[str]) -> "Template":
        """Split at ``{slot}``; other names in braces are words of the data set's domain.

        Args:
            text: the wording.
            words: what ``{noun}`` and the like stand for.
            slots: what it must leave room for, once each.
        Raises:
            UserError: an unknown name, or not just those slots.
        """
        pieces: list[tuple[bool, str]] = []
        try:
            parsed = cut(text)
        except (ValueError, TypeError) as error:
            raise UserError(f"template {text!r}: {error}") from None
        for is_name, content in parsed:
            if is_name and content not in SLOTS:
                if content not in words:
                    raise UserError(f"template {text!r}: {{{content}}} is neither a slot nor a word of the domain"
                                    + did_you_mean(content, [*SLOTS, *words]))
                is_name, content = False, words[content]
            pieces.append((is_name, content))
        joined: list[tuple[bool, str]] = []
        for is_slot, content in pieces:
            if joined and not is_slot and not joined[-1][0]:
                joined[-1] = (False, joined[-1][1] + content)
            else:
                joined.append((is_slot, content))
        if (found := sorted(content for is_slot, content in joined if is_slot)) != sorted(slots):
            raise UserError(f"template {text!r} has the slots {', '.join(found) or 'none'} and must have each of "
                            f"{', '.join(sorted(slots))} once")
        return cls(tuple(joined))

    def texts(self) -> list[str]:
        """The pieces of text, in order."""
        return [content for is_slot, content in self.pieces if not is_slot]
