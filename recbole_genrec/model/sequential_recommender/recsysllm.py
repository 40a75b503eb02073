"""RecSysLLM: recommendation as filling in blanks (Chu et al. 2023, arXiv:2308.10837)."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.backbone.blanks import FAMILIES
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.cost import Work
from recbole_genrec.index import ItemIndex, Material
from recbole_genrec.index.title import line_break_of
from recbole_genrec.infilling.blanks import BlankBatch, Sample, collate
from recbole_genrec.infilling.builder import Builder, History
from recbole_genrec.infilling.features import Features
from recbole_genrec.infilling.masks import MaskRule
from recbole_genrec.infilling.positions import EntityPositions, pool
from recbole_genrec.infilling.wording import Wording
from recbole_genrec.model.sequential_recommender.base import GenerativeRecommender


class RecSysLLM(GenerativeRecommender):
    r"""User features and behaviours as one text; blanks in it are filled in, the next item is one.

    The loss is the paper's equation (1), :math:`-\frac1{|S|}\sum_{t \in S} \log p(x_t \mid x_{corrupt}, x_{<t})`, over
    the contents of the blanks and the END of each. A sample is one of two kinds (``train_stage``, ``infill_share``):

    * *infill*: blanks drawn in the user's text at the level of entities, sentences or the document, none of which
      cuts an entity (section "Mask Mechanism"), in the text's order ("Span Order"), with two position ids a token
      that know entities ("Positional Encoding");
    * *task*: a prompt whose one blank is the next item.

    Every mechanism is a switch: ``entity_mask``, ``span_order``, ``entity_positions``, ``plain_positions``,
    ``dynamic_positions``, ``period_sampling``, ``mask_levels``.

    Decide (the paper is silent): places within an entity count from 1 in the text; a run of plain words in a blank
    counts on (``plain_positions: grow``); 10, 30 and 60 % are shares of a history's items; the shares of the levels are
    chosen on validation (GLM-10B's own: .5, .3, .2); lists come from constrained decoding on the title trie, the
    paper's free generation is measured beside it (``decode: free``). The answer to the next-item task is one entity, so
    ``plain_positions`` and ``dynamic_positions`` change nothing in how a list is decoded.
    """

    families = FAMILIES
    whole_histories = True
    lead = " "

    @classmethod
    def check_config(cls, config) -> None:
        super().check_config(config)
        Wording.load(config["prompt"], None)
        _mask_rule(config, frozenset())
        if config["train_stage"] not in ("infill", "tasks", "mix"):
            raise UserError(f"train_stage={config['train_stage']!r} is not one of infill, tasks, mix")
        shares = config["task_families"]
        if unknown := set(shares) - set(Wording.FAMILIES):
            raise UserError(f"task_families: '{unknown.pop()}' is not one of {', '.join(Wording.FAMILIES)}")
        if not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares.values()) or not sum(
                shares.values()):
            raise UserError(f"task_families={shares!r} must be shares from 0 to 1, not all of them 0")
        days = config["period_days"]
        if not isinstance(days, list) or len(days) != 2 or not all(
                isinstance(day, (int, float)) and not isinstance(day, bool) and day >= 0 for day in days) or \
                days[0] > days[1]:
            raise UserError(f"period_days={days!r} must be two ascending numbers of days: the ends of the short and of "
                            "the medium period")

    # ------------------------------------------------------------------------------------------------ building

    def read_wording(self, config, dataset) -> list[str]:
        self.wording = Wording.load(config["prompt"], (config["about"] or {}).get("domain"))
        self.sequences = dataset.sequences
        # Samples are made one by one, and numpy's numbers come for less.
        self._user, self._item, self._time, self._start = (
            getattr(dataset.sequences, name).numpy() for name in ("user", "item", "time", "start"))
        self.features = {side: Features.of(dataset, side, config[f"{side}_features"] or [])
                         for side in ("user", "item")}
        return [*self.wording.texts(), *self.features["user"].texts(), *self.features["item"].texts()]

    def make_index(self, material: Material) -> ItemIndex:
        self.specials = self.backbone.specials(self.tokenizer)
        return super().make_index(replace(material, terminator=self.specials.end, lead=self.lead))

    def make_prompts(self) -> Builder:
        config, separator = self.config, line_break_of(self.tokenizer)
        listed = max(config["candidate_count"], config["candidates"] or 0) if self.lists_candidates else 0
        builder = Builder(
            self.index, self.tokenizer, self.specials, self.wording, self.features["user"], self.features["item"],
            separator, _mask_rule(config, _sentence_ends(self.tokenizer, separator)), config["max_history_items"],
            config["max_prompt_tokens"], config["period_sampling"], tuple(config["period_days"]),
            config["entity_positions"], config["span_order"] == "shuffled", self.backbone.most_blanks, listed)
        limit = self.backbone.max_positions
        if listed and limit is not None and builder.max_tokens > max(limit, config["max_prompt_tokens"]):
            key = "candidate_count" if listed == config["candidate_count"] else "candidates"
            raise UserError(f"{key}={listed} titles need texts of {builder.max_tokens} "
                            f"tokens, and --llm={config['llm']} takes {limit}")
        self.filler = EntityPositions(pool(builder.entities, self.specials.end), self.specials.start, separator,
                                      config["plain_positions"], self.backbone.most_places)
        if config["entity_positions"]:
            self.backbone.add_tables()
            if config["dynamic_positions"]:
                self.positions = copy.deepcopy(self.filler).to(self.device)
        if self.backbone.kind == "causal":
            self.backbone.bidirectional = config["prefix_attention"] == "bidirectional"
        self.epoch = 0
        return builder

    # ------------------------------------------------------------------------------------------------ training

    def training_rows(self, dataset) -> Tensor | None:
        """One of every ``target_stride`` samples of a user, counted back from the last; None for all.

        Which of the ``target_stride`` items is the target is drawn anew each epoch (see :meth:`sample`), so no item
        is left out for good.
        """
        return self._every(dataset, self.config["target_stride"])

    def training_lengths(self, dataset) -> Tensor:
        """``[N]`` tokens of each sample's behaviours, about: a key to sort by."""
        return self._window_tokens(dataset, self.config["max_history_items"]).clamp(max=self.prompts.max_tokens)

    def sample(self, row: int) -> Sample:
        """The text with blanks of one training sample; the same for the same seed, epoch and row.

        Args:
            row: the sample's target in ``sequences``. The item that is predicted, or that ends the infilled text, is
                this one or one of the ``target_stride`` - 1 before it.
        """
        config, start = self.config, int(self._start[row])
        rng = np.random.default_rng([config["seed"], self.epoch, int(self._user[row]), row - start])
        row -= int(rng.integers(min(config["target_stride"], row - start)))
        stage = config["train_stage"]
        if stage == "infill" or (stage == "mix" and rng.random() < config["infill_share"]):
            sample = self.prompts.infill(self._history(row + 1, now=row), rng)
            if sample is not None:
                return sample
        families, shares = zip(*config["task_families"].items())
        family = families[rng.choice(len(families), p=np.array(shares) / sum(shares))]
        history, target = self._history(row), int(self._item[row])
        candidates = self.draw_candidates(row, rng) if family == "candidates" else None
        templates = self.wording.tasks[family]
        return self.prompts.task(history, target, templates[rng.integers(len(templates))], rng, candidates)

    def draw_candidates(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """``[candidate_count]`` items in random order: the target of a row, and others that its user had not before.

        What the user had later is not left out: that would tell training about it.
        """
        had = self._item[self._start[row]:row + 1]
        target, others = int(had[-1]), np.setdiff1d(np.arange(1, self.n_items), had)
        count = min(self.config["candidate_count"] - 1, len(others))
        return rng.permutation(np.append(rng.choice(others, count, replace=False), target))

    def _history(self, row: int, now: int | None = None) -> History:
        """What the user did before ``row``, as old as it is at the time of row ``now`` (default: of ``row``)."""
        now = row if now is None else now
        start = int(self._start[now])
        age = self._time[now] - self._time[start:row]
        # Times that do not go with the order tell nothing.
        known = not np.isnan(age).any() and (age[1:] <= age[:-1]).all() and (age[-1:] >= 0).all()
        return History(int(self._user[now]), self._item[start:row], age if known else None)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean negative log-likelihood of what the blanks hold, their ENDs included; scalar."""
        batch = self._batch([self.sample(row) for row in interaction[TARGET_ROW].tolist()])
        supervised = batch.label != -100
        label = batch.label[supervised]
        self.work = Work(batch.blank.amax(1).sum(), label.numel(), batch.lengths.sum(), batch.tokens.numel(),
                         label.numel(), self.backbone.pairs(batch))
        with self.autocast():
            states = self.backbone.hidden_states(batch)[supervised]
            total = self._sum(self._vocabulary_loss, states, label)
        return total / label.numel()

    def _batch(self, samples: list[Sample]) -> BlankBatch:
        batch = collate(samples)
        if self.config["entity_positions"]:
            batch = self.filler.fill(batch)  # where the samples are made: a GPU would wait for it token by token
        return self.backbone.numbered(batch.to(self.device))

    # ---------------------------------------------------------------------------------------------- prediction

    def prompt_of(self, interaction) -> BlankBatch:
        """One text with one blank a row, from the behaviours before its target.

        Of the target itself only the time is read: it is the moment at which the recommendation is asked for. Without
        a ``TARGET_ROW`` column the row's ``item_id_list`` is the history, and no times are known.
        """
        if TARGET_ROW in interaction:
            histories = [self._history(row) for row in interaction[TARGET_ROW].tolist()]
        else:
            users = interaction[self.USER_ID].tolist() if self.USER_ID in interaction else None
            histories = [History(users[number] if users else 0, row[row > 0], None)
                         for number, row in enumerate(interaction[self.ITEM_SEQ].cpu().numpy())]
        return self.prompts_of(histories)

    def prompts_of(self, histories: list[History], candidates: np.ndarray | None = None) -> BlankBatch:
        """The prompts of evaluation; ``[B, C]`` candidates, where given, are listed in them."""
        part = self.wording.tasks if self.prompt_set == "seen" else self.wording.unseen
        template = part["sequential" if candidates is None else "candidates"][0]
        return self._batch([
            self.prompts.task(history, None, template, None, None if candidates is None else candidates[number])
            for number, history in enumerate(histories)])

    @property
    def lists_candidates(self) -> bool:
        """Whether it learns to choose among items that the prompt lists."""
        return bool(self.config["task_families"].get("candidates"))

    def score_candidates(self, interaction, candidates: Tensor) -> Tensor:
        """As in the base; a model that was trained on lists of candidates reads them in its prompt."""
        if self.lists_candidates and TARGET_ROW in interaction:
            return self.rank_candidates(interaction[TARGET_ROW], candidates.cpu().numpy())
        return super().score_candidates(interaction, candidates)

    def rank_candidates(self, rows: Tensor, candidates: np.ndarray) -> Tensor:
        """Candidate recommendation (paper, Table 9): one of a few listed items comes next.

        Args:
            rows: ``[B]`` target rows; what was before each is the history.
            candidates: ``[B, C]`` items, in the order in which the prompt lists them.
        Returns:
            ``[B, C]`` log-probabilities of the candidates, END included.
        """
        prompts = self.prompts_of([self._history(row) for row in rows.tolist()], candidates)
        return self._score(prompts, torch.from_numpy(candidates).to(self.device), "full")

    def describe(self) -> dict:
        """Facts for the record; ``period_shares`` and ``clamped_positions`` are this process's since it started."""
        return {**super().describe(), "prompt_fingerprint": self.wording.fingerprint, **self.prompts.report(),
                "clamped_positions": int(self.filler.clamped)}


def _mask_rule(config, sentence_ends: frozenset[int]) -> MaskRule:
    try:
        return MaskRule(config["mask_levels"], config["mask_ratio"], entity_mask=config["entity_mask"],
                        entity_bias=config["entity_bias"], sentence_ends=sentence_ends)
    except (TypeError, ValueError) as error:
        raise UserError(f"mask_levels, mask_ratio or entity_bias: {error}") from None


def _sentence_ends(tokenizer, separator: int) -> frozenset[int]:
    """Tokens after which a sentence is over."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset([separator, *(token for token, text in enumerate(texts) if re.search(r"[.?!;:]\s*$|\n", text))])
