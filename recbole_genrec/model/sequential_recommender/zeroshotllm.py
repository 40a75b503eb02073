"""ZeroShotLLM: an untuned chat model as a recommender. Evaluation only; the rows "ChatGPT" and "GPT-4" of papers."""

from __future__ import annotations

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_genrec.backbone.causal import CausalBackbone
from recbole_genrec.backbone.loading import family_of, resolve
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.windows import CANDIDATES
from recbole_genrec.errors import UserError
from recbole_genrec.zero_shot.asking import ListRanker, TitleWriter
from recbole_genrec.zero_shot.endpoint import Endpoint, check_endpoint
from recbole_genrec.zero_shot.likelihood import Likelihood
from recbole_genrec.zero_shot.local import LocalChat
from recbole_genrec.zero_shot.wording import Wording


class ZeroShotLLM(SequentialRecommender):
    """Tells a chat model a history of titles and ranks by what it answers (Liu et al. 2023, arXiv:2304.10149).

    * ``mode: rank`` lists the candidates (``candidates``), and the answer is a ranking of them: Tables 8 and 9 of
      Chu et al. 2023.
    * ``mode: score`` ranks by the log-likelihood of each title as the answer of a local model; the whole catalogue, or
      candidates.
    * ``mode: generate`` asks for titles; those that the catalogue has are ranked.

    The model is local (``llm``), or stands behind an OpenAI-compatible ``endpoint``; without one nothing is sent.

    Decide (the papers are silent): one message and no example; the newest ``max_history_items`` are told, by title
    alone; the answer is greedy; as many items are asked for as the largest ``topk``.
    """

    input_type = InputType.POINTWISE
    evaluation_only = True

    @classmethod
    def check_config(cls, config) -> None:
        """Refuse what can be seen to be wrong before any data are read.

        Raises:
            UserError: no model, a mode that the rest does not go with, an endpoint or a prompt that is none.
        """
        mode, llm, candidates, eval_mode = (config["mode"], config["llm"], config["candidates"],
                                            config["eval_args"]["mode"])
        if llm is None:
            raise UserError("ZeroShotLLM needs a model: --llm=NAME, a hub id or a folder, or with --endpoint=URL its "
                            "name there")
        if mode == "rank" and candidates is None:
            raise UserError("mode=rank lists candidates in its prompt: set candidates, for example --candidates=100")
        if mode == "generate" and candidates is not None:
            raise UserError("mode=generate ranks what the model writes, of the whole catalogue: leave candidates out, "
                            "or set mode=rank")
        if mode == "score" and config["endpoint"] is not None:
            raise UserError("mode=score needs the log-likelihoods of a local model: leave endpoint out, or set "
                            "mode=rank or mode=generate")
        if mode != "score" and set(eval_mode.values()) != {"full"}:
            raise UserError(f"mode={mode} ranks whole lists: set eval_args.mode to full")
        if config["item_index"] != "title":
            raise UserError(f"item_index={config['item_index']}: an untuned model knows items by their titles only")
        Wording.load(config["prompt"], mode, None)
        if config["endpoint"] is not None:
            check_endpoint(config)
        elif isinstance(found := resolve(str(llm)), dict):
            family_of(found["kind"], llm, {CausalBackbone.kind: CausalBackbone}, cls.__name__)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config, mode = config, config["mode"]
        if mode == "score":
            self.ranker = Likelihood(config, dataset)
        else:
            catalogue = Catalogue.from_dataset(dataset)
            wording = Wording.load(config["prompt"], mode, (config["about"] or {}).get("domain"))
            chat = Endpoint.of(config) if config["endpoint"] is not None else LocalChat(
                config, [*catalogue.titles[1:], *wording.texts(), "\n"], wording.answer)
            self.ranker = {"rank": ListRanker, "generate": TitleWriter}[mode](
                chat, wording, catalogue, max(config["topk"]), config["max_history_items"])
        self.requires_grad_(False)

    def full_sort_predict(self, interaction) -> Tensor:
        """``[B * n_items]`` log-likelihoods (``score``) or minus ranks of what the model ranked, ``-inf`` elsewhere."""
        if isinstance(self.ranker, Likelihood):
            return self.ranker.full_sort_predict(interaction)
        candidates = interaction[CANDIDATES] if CANDIDATES in interaction else None
        return self.ranker.scores(interaction[self.ITEM_SEQ], candidates).to(self.device).flatten()

    def predict(self, interaction) -> Tensor:
        """``[B]`` log-likelihood of each row's item; ``mode: score`` only."""
        if not isinstance(self.ranker, Likelihood):
            raise NotImplementedError  # an answer scores no single item; check_config lets only whole lists through
        return self.ranker.predict(interaction)

    def describe(self) -> dict:
        """Facts for the result record: model, mode, prompt, how answers could be read, what they cost."""
        return {"mode": self.config["mode"], "backbone": str(self.config["llm"]), **self.ranker.describe()}
