"""GenRec: large language model for generative recommendation (Ji et al. 2023, arXiv:2307.00457)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recbole_genrec.backbone.identified import IdentifiedCausalBackbone
from recbole_genrec.backbone.items import reader_settings
from recbole_genrec.data.windows import TARGET_ROW, one_in
from recbole_genrec.decoding.exact import step_log_probs
from recbole_genrec.decoding.prior import branch_log_probs
from recbole_genrec.decoding.tree import DecodingState, side_by_side
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.cost import Work
from recbole_genrec.model.sequential_recommender.base import GenerativeRecommender
from recbole_genrec.prompt import Batch, PromptBuilder, PromptTemplate


class GenRec(GenerativeRecommender):
    r"""Titles as item ids; instruction, history and next title as one text; a causal language model with LoRA.

    The loss is :math:`-\frac1{|S|}\sum_{t \in S} \log p(x_t \mid x_{<t})` over the supervised tokens ``S``:

    * ``layout: per_target`` (paper, section 3.1): every prefix of a history is a sample, ``S`` is its next title.
    * ``layout: continuation``: one window a sample, ``S`` is every title in it, the next one included. The same
      targets for a fraction of the tokens, without the answer marker, so that a title is predicted in training
      exactly where it is at inference: after the title before it.
    * ``layout: shared_prefix``: one window a sample, whose history is read once; every item in it but the first is
      the target of a branch that sees the items before it. Loss and gradients are those of ``per_target`` with
      the window's items as history, for a fraction of the tokens.
    * ``train_on_prompt: true`` adds the prompt's own tokens to ``S``, as the published code does.

    With ``item_prior: w`` items are ranked by ``log p(title) + w log p(item)``, where the second is learnt beside the
    first by cross-entropy over all items: from the states before the titles, or (``item_reader``) from those of a
    second, small model (or ``members`` of them) that reads the history as numbers.

    Decide (the paper is silent): lists come from constrained decoding on the title trie instead of matching free
    text by string; the first instruction is fixed at evaluation; items are separated by a line break, which no
    title contains, instead of a comma, which 13.5 % of the published targets contain.
    """

    families = {IdentifiedCausalBackbone.kind: IdentifiedCausalBackbone}

    @staticmethod
    def has_suffix(config) -> bool:
        """Whether a marker stands between the history and the answer."""
        return config["layout"] != "continuation"

    @classmethod
    def check_config(cls, config) -> None:
        super().check_config(config)
        PromptTemplate.load(config["prompt"], None, cls.has_suffix(config))
        if config["layout"] == "shared_prefix" and config["item_dropout"]:
            raise UserError("item_dropout needs layout continuation or per_target: in shared_prefix an item that is "
                            "left out would take a target along")
        if config["item_prior"] and (config["norm"] != "trie" or config["decode"] == "free"):
            raise UserError(f"item_prior has a say in choices among titles, and norm={config['norm']}, decode="
                            f"{config['decode']} has other ones: take norm=trie and a decode that is not free")
        if (reader := config["item_reader"]) is not None:
            if not config["item_prior"]:
                raise UserError(f"item_reader={reader} tells what item_prior weighs, and that is 0")
            reader_settings(reader)
        elif config["members"] > 1:
            raise UserError(f"members={config['members']} is how many readers there are, and item_reader names none")
        if config["layout"] == "shared_prefix" and config["train_on_prompt"]:
            raise UserError("train_on_prompt needs layout per_target or continuation: shared_prefix reads a prompt "
                            "once for many targets")

    def read_wording(self, config, dataset) -> list[str]:
        domain = (config["about"] or {}).get("domain")
        self.template = PromptTemplate.load(config["prompt"], domain, self.has_suffix(config))
        return [*self.template.prefixes, self.template.suffix]

    def make_prompts(self) -> PromptBuilder:
        if (reader := self.config["item_reader"]) is not None:
            self.backbone.add_readers(reader_settings(reader), self.n_items, self.config["members"])
        if self.config["item_embedding"] or (self.config["item_prior"] and reader is None):
            self.backbone.add_table(self.n_items, gain=float(not self.pretrained))
        return PromptBuilder(self.index, self.tokenizer, self.template,
                             self.config["max_prompt_tokens"]).to(self.device)

    def prompt_of(self, interaction) -> Batch:
        """Prompts of a batch, from its ``item_id_list`` alone (other columns may describe the target)."""
        return self.prompts(interaction[self.ITEM_SEQ])

    def describe(self) -> dict:
        return {**super().describe(), "prompt_fingerprint": self.template.fingerprint}

    def training_rows(self, dataset) -> Tensor | None:
        """Rows of RecBole's training samples that the layout trains on; None for all.

        ``continuation`` takes the last sample of each user and from there every (MAX_ITEM_LIST_LENGTH + 1)-th
        backwards: their windows (history and target) cover each training interaction once, but for a first item
        that would stand alone in its window (it has no history, so RecBole has no sample for it) and for what
        ``max_prompt_tokens`` cuts from the oldest end of a window.

        ``shared_prefix`` takes every MAX_ITEM_LIST_LENGTH-th sample instead: a window's first item, which is
        no target there, is the last target of the window before, so each training sample is a target once
        (but for what ``max_prompt_tokens`` cuts, as above).
        """
        if self.config["layout"] == "per_target":
            return None
        return one_in(dataset, self.max_seq_length + (self.config["layout"] == "continuation"))

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of the supervised tokens; scalar."""
        history = interaction[self.ITEM_SEQ]
        if self.training and self.config["item_dropout"]:
            left_out = torch.rand(history.shape, device=history.device) < self.config["item_dropout"]
            history = history.masked_fill(left_out, 0)
        lay_out = self.prompts.branched if self.config["layout"] == "shared_prefix" else self.prompts
        batch = lay_out(history, interaction[self.ITEM_ID], random_instruction=True)
        titles = self._titles(batch, history.size(1))
        learnt = titles[:, 1:]  # the first token is never learnt: nothing is before it
        supervised = batch.mask[:, 1:] if self.config["train_on_prompt"] else learnt
        node = batch.node[:, 1:]
        leaf = (node > 0) & self.trie.is_leaf(node)  # one a title
        if self.config["objective"] == "catalogue":
            count, loss = (supervised & leaf).sum(), self._catalogue_loss
            supervised = supervised & (node > 0)  # a forced token has probability 1: no loss, no work
            taken = node[supervised]
        else:
            taken, loss, count = batch.tokens[:, 1:][supervised], self._vocabulary_loss, supervised.sum()
        self.work = Work((learnt & leaf).sum(), count, batch.lengths.sum(), batch.tokens.numel(), len(taken),
                         batch.pairs)
        with self.autocast():
            # Only supervised positions go through the head, by far the widest layer.
            states = self.backbone.hidden_states(batch)
            total = self._sum(loss, states[:, :-1][supervised], taken)
            if self.config["item_prior"]:
                total = total + self._item_loss(states, batch, titles)
        return total / count

    def training_flops(self, work: Work) -> float:
        own = self.backbone.readers or self.backbone.items if self.config["item_prior"] else None
        weights = 0 if own is None else sum(weight.numel() for weight in own.parameters())
        return super().training_flops(work) + 6 * work.targets * weights

    def training_lengths(self, dataset) -> Tensor:
        """``[N]`` tokens of each training sample's row, but for what ``max_prompt_tokens`` cuts: a key to sort by."""
        window = self._window_tokens(dataset, self.max_seq_length)
        if self.config["layout"] != "shared_prefix":
            return window
        sequences, target = dataset.sequences, dataset.inter_feat[TARGET_ROW]
        first = torch.maximum(sequences.start[target], target - self.max_seq_length)
        # A history without the target, then, each after a suffix, the targets without the first item.
        lengths, suffix = self.index.lengths[sequences.item], int(self.prompts.length[self.prompts.suffix])
        return 2 * window - lengths[target] - lengths[first] + suffix * (target - first)

    def _titles(self, batch: Batch, longest: int) -> Tensor:
        """``[B, T]`` bool, the tokens of the titles to predict."""
        # After the history come pairs of suffix and title, one pair a target.
        titles = (batch.segment > longest) & ((batch.segment - longest) % 2 == 0)
        if self.config["layout"] == "continuation":
            titles |= (batch.segment >= 1) & (batch.segment <= longest)
        return titles & batch.mask

    @staticmethod
    def _items(batch: Batch) -> Tensor:
        """``[B, L]`` the items of each row, oldest first and the target (where there is one) last; 0 where padded."""
        ends = batch.ends
        return side_by_side(batch.item[ends], ends.sum(1), 0)

    def _item_loss(self, states: Tensor, batch: Batch, titles: Tensor) -> Tensor:
        """Sum of the cross-entropies over all items of what is known before each of the ``titles``."""
        smoothing = self.config["label_smoothing"]
        if self.backbone.readers is None:
            begins = titles.clone()
            begins[:, 1:] &= batch.segment[:, 1:] != batch.segment[:, :-1]
            row, column = begins.nonzero(as_tuple=True)
            before = column > 0  # nothing is before a title that begins the row
            following = batch.item[titles & (batch.item > 0)][before]
            return self.backbone.items.loss(states[row[before], column[before] - 1], following, smoothing)
        items = self._items(batch)
        learnt = items[:, 1:] > 0
        if self.config["layout"] == "per_target":  # the last alone
            learnt = learnt & (learnt.cumsum(1) == learnt.sum(1, keepdim=True))
        return self.backbone.readers.loss(items, learnt, smoothing)

    def _begin(self, prompts: Batch) -> DecodingState:
        state = super()._begin(prompts)
        if weight := self.config["item_prior"]:
            with torch.autocast(self.device.type, enabled=False):
                if self.backbone.readers is None:
                    logits = self.backbone.items.logits(state.hidden.float())
                else:
                    history = self._items(prompts)
                    logits = self.backbone.readers.log_probs(history, (history > 0).sum(1).clamp(min=1))
                state.prior = weight * branch_log_probs(logits, self.trie)
        return state

    def _catalogue_loss(self, logits: Tensor, node: Tensor) -> Tensor:
        return -step_log_probs(logits, node, self.trie, self.config["label_smoothing"]).sum()

    def _vocabulary_loss(self, logits: Tensor, token: Tensor) -> Tensor:
        return cross_entropy(logits.float(), token, reduction="sum", label_smoothing=self.config["label_smoothing"])
