"""A chat model on this machine, asked as an endpoint is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.loading import compute_dtype, load_backbone
from recbole_genrec.errors import UserError
from recbole_genrec.prompt import Rows
from recbole_genrec.zero_shot.wording import chat


class LocalChat(nn.Module):
    """Any ``AutoModelForCausalLM``, which answers greedily.

    Args:
        config: reads llm, precision, trust_remote_code, max_answer_tokens.
        texts: what a scratch backbone's tokenizer is trained on.
        answer: what follows a message where the tokenizer has no chat template.
    """

    def __init__(self, config, texts: Iterable[str], answer: str):
        super().__init__()
        loaded = load_backbone(config, texts, {CausalBackbone.kind: CausalBackbone})
        self.backbone, self.tokenizer, self.answer = loaded.backbone, loaded.tokenizer, answer
        self.longest, self.dtype = config["max_answer_tokens"], compute_dtype(config, loaded.pretrained)
        limit = self.backbone.max_positions
        self.room = None if limit is None else limit - self.longest
        if self.room is not None and self.room < 1:
            raise UserError(f"--llm={config['llm']} takes {limit} tokens, and max_answer_tokens={self.longest} leaves "
                            "none for a prompt")

    def _tokens(self, prompt: str) -> list[int]:
        tokens = self.tokenizer(chat(self.tokenizer, prompt, self.answer), add_special_tokens=False)["input_ids"]
        begin = self.tokenizer.bos_token_id
        return tokens if begin is None else [begin, *tokens]

    def fits(self, prompt: str) -> bool:
        """Whether the model takes so long a prompt, and its answer."""
        return self.room is None or len(self._tokens(prompt)) <= self.room

    @torch.no_grad()
    def answers(self, prompts: Sequence[str]) -> list[str]:
        """The answer to each prompt."""
        if not prompts:
            return []
        tokens = [torch.tensor(self._tokens(prompt)) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in tokens])
        found = [""] * len(prompts)
        for rows in Rows(torch.zeros(len(tokens), 1), lengths).groups():
            for row, text in zip(rows.tolist(), self._generate([tokens[row] for row in rows.tolist()])):
                found[row] = text
        return found

    def _generate(self, rows: list[Tensor]) -> list[str]:
        core, width = self.backbone.core, max(map(len, rows))
        inputs = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros_like(inputs)
        for place, row in enumerate(rows):  # an answer follows its prompt, so the padding stands before it
            inputs[place, width - len(row):], mask[place, width - len(row):] = row, 1
        with torch.autocast(core.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            written = core.generate(inputs.to(core.device), attention_mask=mask.to(core.device), do_sample=False,
                                    num_beams=1, temperature=None, top_p=None, top_k=None, pad_token_id=0,
                                    max_new_tokens=self.longest)
        return self.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)

    def describe(self) -> dict[str, Any]:
        """Nothing beside its name, which the configuration has."""
        return {}
