"""Wording of the text that blanks are made in, and of the tasks with one blank, read from YAML."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_genrec.errors import UserError
from recbole_genrec.prompt import fingerprint_of, read_prompt
from recbole_genrec.template import Template


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
        content, words = read_prompt(name, domain, {"infill": str, **dict.fromkeys(cls.FAMILIES, dict)})
        families = {family: content[family] for family in cls.FAMILIES}
        for family, texts in families.items():
            for part in ("seen", "unseen"):
                if not isinstance(texts.get(part), list) or not texts[part]:
                    raise UserError(f"prompt={name}: '{family}' has no list of texts '{part}'")

        def parsed(part: str) -> dict[str, list[Template]]:
            return {family: [Template.parse(text, words, cls.FAMILIES[family]) for text in texts[part]]
                    for family, texts in families.items()}

        return cls(Template.parse(content["infill"], words, {"user", "history"}), parsed("seen"), parsed("unseen"),
                   fingerprint_of(content.get("version"), content["infill"], families, words))

    def templates(self) -> list[Template]:
        """All of them, that of infilling first."""
        return [self.infill, *(template for part in (self.tasks, self.unseen) for family in part.values()
                               for template in family)]

    def texts(self) -> list[str]:
        """Every piece of text in any template."""
        return [text for template in self.templates() for text in template.texts()]
