"""Sets of prompts of the sequential task: those that are trained on, and those kept from training."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_genrec.prompt import fingerprint_of, read_prompt
from recbole_genrec.template import Template


@dataclass(frozen=True)
class PromptSets:
    """All templates of a file.

    Attributes:
        seen: drawn at random in training; the first is that of evaluation.
        unseen: never trained on; the first is that of evaluation.
        separator: text between two items of a history.
        fingerprint: hash of all wording.
    """

    seen: list[Template]
    unseen: list[Template]
    separator: str
    fingerprint: str

    @classmethod
    def load(cls, name: str, domain: str | None) -> "PromptSets":
        """Read ``properties/prompt/<name>.yaml`` and fill in the words of the data set's domain.

        Raises:
            UserError: no such file, one without these sets, or a template without its slots.
        """
        content, words = read_prompt(name, domain, {"seen": list, "unseen": list, "separator": str})
        seen, unseen = ([Template.parse(text, words, {"user", "history"}) for text in content[part]]
                        for part in ("seen", "unseen"))
        return cls(seen, unseen, content["separator"], fingerprint_of(
            content.get("version"), content["seen"], content["unseen"], content["separator"], words))

    def texts(self) -> list[str]:
        """Every piece of text in any template, and the separator."""
        return [*(text for template in (*self.seen, *self.unseen) for text in template.texts()), self.separator]
