"""Wording of texts and tasks: templates with slots, read from YAML, as segments to tokenise."""

from __future__ import annotations

import hashlib
import json
import string
from dataclasses import dataclass

from recbole_genrec.errors import UserError, did_you_mean
from recbole_genrec.prompt import read_prompt

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
        for literal, name, _, _ in string.Formatter().parse(text):
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


@dataclass(frozen=True)
class Wording:
    """All templates of a file.

    Attributes:
        infill: the text that blanks are made in.
        tasks: family -> templates of training; the first one is that of evaluation.
        unseen: family -> templates kept from training.
        fingerprint: hash of all wording.
    """

    infill: Template
    tasks: dict[str, list[Template]]
    unseen: dict[str, list[Template]]
    fingerprint: str

    #: Slots of each family.
    FAMILIES = {"sequential": {"user", "history", "mask"}, "candidates": {"user", "history", "candidates", "mask"}}

    @classmethod
    def load(cls, name: str, domain: str | None) -> "Wording":
        """Read ``properties/prompt/<name>.yaml`` and fill in the words of the data set's domain.

        Raises:
            UserError: no such file, or one that is no wording of texts with blanks.
        """
        content, words = read_prompt(name, domain)
        if "infill" not in content:
            raise UserError(f"prompt={name} has no 'infill' text: it is of another model's form")
        families = {family: content[family] for family in cls.FAMILIES}

        def parsed(part: str) -> dict[str, list[Template]]:
            return {family: [Template.parse(text, words, cls.FAMILIES[family]) for text in texts[part]]
                    for family, texts in families.items()}

        wording = json.dumps([content["version"], content["infill"], families, words], sort_keys=True)
        return cls(Template.parse(content["infill"], words, {"user", "history"}), parsed("seen"), parsed("unseen"),
                   hashlib.sha256(wording.encode()).hexdigest()[:16])

    def templates(self) -> list[Template]:
        """All of them, that of infilling first."""
        return [self.infill, *(template for part in (self.tasks, self.unseen) for family in part.values()
                               for template in family)]

    def texts(self) -> list[str]:
        """Every piece of text in any template."""
        return [content for template in self.templates() for is_slot, content in template.pieces if not is_slot]
