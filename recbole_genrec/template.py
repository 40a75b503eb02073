"""Templates: wording with slots for what differs from text to text, cut into pieces to tokenise."""

from __future__ import annotations

import string
from dataclasses import dataclass

from recbole_genrec.errors import UserError, did_you_mean

#: What a template may leave room for: lines of the user's features, lines of behaviours, lines of candidates, and the
#: mask where the answer belongs.
SLOTS = ("user", "history", "candidates", "mask")


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
            parsed = list(string.Formatter().parse(text))
        except (ValueError, TypeError) as error:
            raise UserError(f"template {text!r}: {error}") from None
        for literal, name, _, _ in parsed:
            if literal:
                pieces.append((False, literal))
            if name in SLOTS:
                pieces.append((True, name))
            elif name is not None:
                if name not in words:
                    raise UserError(f"template {text!r}: {{{name}}} is neither a slot nor a word of the domain"
                                    + did_you_mean(name, [*SLOTS, *words]))
                pieces.append((False, words[name]))
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
