"""A data set as every model gets it: read, split and wrapped in RecBole's loaders."""

from __future__ import annotations

from dataclasses import dataclass

from recbole.data.utils import create_samplers, get_dataloader
from torch import Tensor

from recbole_genrec.config import Config
from recbole_genrec.data.bucketing import LikeLength
from recbole_genrec.data.candidates import Candidates
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.fingerprint import data_fingerprint, split_fingerprint
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError


@dataclass
class Data:
    """A data set, split and wrapped in RecBole's loaders."""

    dataset: GenRecDataset
    parts: list[GenRecDataset]
    fingerprint: str
    split_fingerprint: str

    @classmethod
    def load(cls, config: Config) -> "Data":
        """Read the atomic files and split them. Every model of a data set gets the same split.

        Raises:
            UserError: a file or a setting that RecBole cannot work with; nothing is left to train, validate or test on.
        """
        try:
            return cls._load(config)
        except UserError:
            raise
        except Exception as error:  # RecBole has a type of its own for every file that it cannot work with
            raise UserError(f"data set '{config['dataset']}' cannot be read: {type(error).__name__}: "
                            f"{error}") from error

    @classmethod
    def _load(cls, config: Config) -> "Data":
        dataset = GenRecDataset(config)
        if max(config["topk"]) >= dataset.item_num:
            raise UserError(f"topk={max(config['topk'])} needs a catalogue of at least as many items; "
                            f"'{config['dataset']}' has {dataset.item_num - 1}")
        parts = dataset.build()
        if (candidates := Candidates.of(dataset, config)) is not None:
            candidates.check()
        for name, part in zip(("train", "valid", "test"), parts):
            if len(part) == 0:
                raise UserError(f"data set '{config['dataset']}' leaves no {name} sample: leave-one-out needs users "
                                "with at least 4 interactions")
        targets = [part.inter_feat[TARGET_ROW] for part in parts]
        return cls(dataset, parts, data_fingerprint(dataset), split_fingerprint(dataset, targets))

    def loaders(self, config: Config, model=None, rows: Tensor | None = None):
        """RecBole's train, valid and test loaders.

        The model may narrow the training samples to those it uses (``rows`` does it in its stead), and say how long
        they are: then the batches of an optimizer step hold rows of like length each.
        """
        train, valid, test = self.parts
        if rows is None and hasattr(model, "training_rows"):
            rows = model.training_rows(train)
        train = train if rows is None else train.copy(train.inter_feat[rows])
        parts = [train, valid, test]
        samplers = create_samplers(config, self.dataset, parts)
        loaders = tuple(
            get_dataloader(config, phase)(config, part, sampler, shuffle=phase == "train" and config["shuffle"])
            for phase, part, sampler in zip(("train", "valid", "test"), parts, samplers))
        if hasattr(model, "training_lengths"):
            batches = loaders[0].batch_sampler
            batches.sampler = LikeLength(batches.sampler, model.training_lengths(train),
                                         batches.batch_size * config["gradient_accumulation_steps"])
        return loaders
