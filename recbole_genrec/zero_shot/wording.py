"""What a chat model is asked, read from YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_genrec.errors import UserError
from recbole_genrec.prompt import filled, fingerprint_of, read_prompt

#: What the text of each mode must leave room for.
_SLOTS = {"rank": {"history", "candidates", "count"}, "score": {"history"}, "generate": {"history", "count"}}


@dataclass(frozen=True)
class Wording:
    """The message of one mode.

    Attributes:
        text: with the words of the domain filled in, and slots ``{history}``, ``{candidates}``, ``{count}``.
        answer: what follows it where there is no chat template.
        fingerprint: hash of all that.
    """

    text: str
    answer: str
    fingerprint: str

    @classmethod
    def load(cls, name: str, mode: str, domain: str | None) -> "Wording":
        """Read ``properties/prompt/<name>.yaml``.

        Raises:
            UserError: no such file, or one that is no wording of a chat model's tasks.
        """
        content, words = read_prompt(name, domain, {mode: str, "answer": str}, also=_SLOTS)
        slots = {slot: "{" + slot + "}" for slot in _SLOTS[mode]}
        text = filled(content[mode], {**words, **slots})
        if missing := sorted(slot for slot, braces in slots.items() if braces not in text):
            raise UserError(f"prompt={name}: the text '{mode}' leaves no room for {', '.join(missing)}")
        return cls(text, content["answer"], fingerprint_of(content.get("version"), text, content["answer"]))

    def message(self, history: Sequence[str], count: int, candidates: Sequence[str] = ()) -> str:
        """The message for titles of a history, oldest first, and titles to choose from."""
        values = {"history": "\n".join(history), "count": str(count), "candidates": "\n".join(
            f"[{number}] {title}" for number, title in enumerate(candidates, 1))}
        # One pass: neither other braces of the wording nor those of a title are slots.
        return re.sub(r"\{(history|count|candidates)\}", lambda slot: values[slot[1]], self.text)

    def parts(self) -> tuple[str, str]:
        """The text before and after the history."""
        before, _, after = self.text.partition("{history}")
        return before, after

    def texts(self) -> list[str]:
        """What a scratch backbone's tokenizer is trained on."""
        return [*self.parts(), self.answer]


def chat(tokenizer, message: str, answer: str) -> str:
    """A message as the model expects it: by the tokenizer's chat template, or else the message and ``answer``.

    Without the begin-of-sequence token, which is added with the tokens.
    """
    if not getattr(tokenizer, "chat_template", None):
        return message + answer
    text = tokenizer.apply_chat_template([{"role": "user", "content": message}], tokenize=False,
                                         add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token or "")
