"""Answers on disk: one JSON file for each request, found by a hash of everything that was sent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recbole_genrec.errors import UserError
from recbole_genrec.files import write_atomically


class AnswerCache:
    """A folder of files ``<hash>.json`` with ``sent`` and ``answer``, each written whole or not at all.

    Args:
        folder: made if need be. Several runs may share it, also at the same time.
    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"llm_cache={folder} cannot be made: {error.strerror}") from None

    def get(self, sent: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to just this; None where there is none that can be read."""
        try:
            content = json.loads(self._path(sent).read_text(encoding="utf-8"))
            answer = content["answer"]
            whole = content["sent"] == sent and isinstance(answer["text"], str) and {
                "prompt_tokens", "completion_tokens"} <= answer.keys()
            return answer if whole else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def put(self, sent: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep an answer."""
        write_atomically(self._path(sent), json.dumps({"sent": sent, "answer": answer}, indent=1) + "\n")

    def _path(self, sent: dict[str, Any]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()}.json"
