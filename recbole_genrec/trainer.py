"""RecBole's Trainer with a fair evaluation step, safetensors checkpoints, accumulation, a schedule, a time budget."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.model.loss import BPRLoss
from recbole.trainer import Trainer
from torch.nn.utils.clip_grad import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import get_scheduler

from recbole_genrec import compat
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.evaluation.candidates import Candidates
from recbole_genrec.evaluation.cost import Work, training_cost
from recbole_genrec.evaluation.ranking import (CANDIDATES, HISTORY, keep_items, mask_items, masks_history, settle,
                                               target_rank)
from recbole_genrec.weights import load_weights, save_weights


class _BudgetSpent(Exception):
    """``max_train_minutes`` is over; raised between epochs."""


class GenRecTrainer(Trainer):
    """Trains and evaluates any model of the harness, ours or RecBole's.

    Args:
        config: the run's configuration.
        model: the model.
        dataset: the whole data set (histories to mask, exact times).
        model_dir: where the best model is kept, as safetensors.
    """

    def __init__(self, config, model, dataset, model_dir: Path):
        with compat.no_tensorboard():
            super().__init__(config, model)
        self.sequences = dataset.sequences
        self.candidates = Candidates.of(dataset, config)
        self.model_dir = Path(model_dir)
        self.mask_history = masks_history(config)
        self.train_seconds = 0.0
        self.epochs_done = 0
        self.work = Work()
        #: FLOPs a target of a model that cannot tell them from its work; see evaluation/cost.py.
        self.flops_per_target: float | None = None
        self.curve: list[dict] = []
        self._per_user: list[pd.DataFrame] | None = None

    # ----------------------------------------------------------------------------------------------- training

    def _build_optimizer(self, **kwargs):
        """RecBole's optimizer over the weights that train; None for an evaluation-only model, which has none."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            return None
        optimizer = super()._build_optimizer(params=trained, **kwargs)
        if isinstance(optimizer, torch.optim.Adam):  # AdamW too
            for group in optimizer.param_groups:
                group["fused"] = True  # one pass over the weights: on a CPU eight times as fast as torch's default
        return optimizer

    def fit(self, train_data, valid_data=None, **kwargs):
        """RecBole's ``fit`` under ``lr_scheduler_type``, ``warmup_steps`` and ``max_train_minutes``."""
        name = self.config["lr_scheduler_type"]
        if name and name != "constant":
            steps = max(1, self.epochs * math.ceil(len(train_data) / self.config["gradient_accumulation_steps"]))
            # A short run would otherwise end inside the warm-up.
            warmup = min(self.config["warmup_steps"] or 0, steps // 5)
            scheduler = get_scheduler(name, self.optimizer, num_warmup_steps=warmup, num_training_steps=steps)
            self.optimizer.register_step_post_hook(lambda *_: scheduler.step())
        try:
            return super().fit(train_data, valid_data, **kwargs)
        except _BudgetSpent:
            if not self.model_dir.exists():
                self._save_checkpoint(self.epochs_done - 1)
            return self.best_valid_score, self.best_valid_result

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        budget = self.config["max_train_minutes"]
        if budget and self.epochs_done and self.train_seconds > 60 * budget:
            raise _BudgetSpent
        self.model.epoch = epoch_idx  # a model that draws its samples anew each epoch reads it
        began = time.monotonic()
        loss, work = self._pass_over(train_data, epoch_idx, loss_func or self.model.calculate_loss, show_progress)
        self.work = self.work + work.numbers()
        seconds = time.monotonic() - began
        self.train_seconds += seconds
        self.epochs_done += 1
        self.curve.append({"epoch": epoch_idx, "seconds": round(seconds, 3), "loss": loss / max(1, len(train_data))})
        return loss

    def _pass_over(self, train_data, epoch_idx, loss_func, show_progress) -> tuple[float, Work]:
        """Train on each batch once.

        RecBole's own loop takes an optimizer step a batch. Here ``gradient_accumulation_steps`` batches make one,
        with the gradient that they would have as one batch: each counts by the terms of its mean (for a model that
        does not say, by its rows).

        Returns:
            the sum of the batches' losses, and the work done.
        """
        self.model.train()
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        group, total, done, terms = self.config["gradient_accumulation_steps"], 0.0, Work(), 0
        batches = tqdm(train_data, f"train {epoch_idx}", ncols=100) if show_progress else train_data
        for number, interaction in enumerate(batches, 1):
            interaction = interaction.to(self.device)
            # RecBole has no count of its own models' operations: the first batch is watched.
            watch = self.epochs_done == 0 and number == 1 and not hasattr(self.model, "training_flops")
            with FlopCounterMode(display=False) if watch else contextlib.nullcontext() as counter:
                with torch.autocast(self.device.type, enabled=self.enable_amp):
                    parts = loss_func(interaction)
                loss = sum(parts) if isinstance(parts, tuple) else parts
                self._check_nan(loss)
                work = getattr(self.model, "work", None) or Work(targets=len(interaction), terms=len(interaction))
                weight = work.terms if group > 1 else 1
                scaler.scale(loss * weight).backward()
            if watch:
                self.flops_per_target = counter.get_total_flops() / work.targets
            total, done, terms = total + loss.item(), done + work, terms + weight
            if number % group == 0 or number == len(train_data):
                self._step(scaler, terms if group > 1 else None)
                terms = 0
        return total, done

    def _step(self, scaler, terms) -> None:
        """One optimizer step; ``terms`` is given where the gradient is that of a sum and their mean is meant."""
        if terms is not None:
            scaler.unscale_(self.optimizer)
            for weight in self.model.parameters():
                if weight.grad is not None:
                    weight.grad /= terms
        if self.clip_grad_norm:
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad()

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress)
        self.curve[-1]["valid"] = {metric: float(value) for metric, value in result.items()}
        return score, result

    def cost(self) -> dict[str, float | None]:
        """What training has cost so far (see evaluation/cost.py)."""
        flops = self.flops_per_target
        if hasattr(self.model, "training_flops") and self.work.targets:
            flops = self.model.training_flops(self.work) / self.work.targets
        return training_cost(self.train_seconds, self.work, flops)

    # -------------------------------------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Keep the model as safetensors; the folder is complete or not there at all."""
        fresh = self.model_dir.with_name(self.model_dir.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        save_weights(self.model, fresh)
        shutil.rmtree(self.model_dir, ignore_errors=True)
        fresh.rename(self.model_dir)

    def load_best(self) -> None:
        """Give the model the weights of the best epoch."""
        load_weights(self.model, self.model_dir)

    # --------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, eval_data, load_best_model=False, model_file=None, show_progress=False):
        """RecBole's ``evaluate``; weights come from :meth:`load_best` (RecBole would unpickle them)."""
        if load_best_model:
            self.load_best()
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def test(self, eval_data, mask_history: bool, show_progress=False) -> tuple[dict, pd.DataFrame]:
        """Evaluate and keep every user's list.

        Returns:
            metrics by RecBole's names, and a table with one row a user: ``user, target, rank`` (from 1, NaN if the
            target was not recommended), ``tied`` (same time as the item before it; NA: unknown), ``history`` (its
            length), ``in_history`` (the target is among the items that the user had), ``topk`` (list of item ids,
            best first).
        """
        policy, self.mask_history, self._per_user = self.mask_history, mask_history, []
        try:
            metrics = self.evaluate(eval_data, show_progress=show_progress)
            return dict(metrics), pd.concat(self._per_user, ignore_index=True)
        finally:
            self.mask_history, self._per_user = policy, None

    def _full_sort_batch_eval(self, batched_data):
        interaction = batched_data[0]
        if self.mask_history:
            interaction.update(Interaction({HISTORY: self.sequences.history(interaction[TARGET_ROW])}))
        if self.candidates is not None:
            interaction.update(Interaction({CANDIDATES: self.candidates(interaction[TARGET_ROW])}))
        return self._fair(*super()._full_sort_batch_eval(batched_data))

    def _fair(self, interaction, scores, positive_u, positive_i):
        """What RecBole's evaluator gets to see.

        The candidates, where there are such; history masked by the policy; the target behind its ties.
        """
        history = interaction[HISTORY] if HISTORY in interaction else \
            self.sequences.history(interaction[TARGET_ROW].cpu())
        target = positive_i.to(scores.device)
        if self.mask_history:
            scores = mask_items(scores, history.to(scores.device))
        if CANDIDATES in interaction:
            scores = keep_items(scores, interaction[CANDIDATES].to(scores.device))
        scores = settle(scores, target)
        if self._per_user is not None:
            self._per_user.append(self._user_rows(interaction, scores, target, history))
        return interaction, scores, positive_u, positive_i

    def _neg_sample_batch_eval(self, batched_data):
        interaction, row, _, _ = batched_data
        # A user's rows stand together, the positive first: its row tells the user and the history.
        users = interaction[torch.searchsorted(row, torch.arange(int(row[-1]) + 1))]
        _, scores, positive_u, positive_i = super()._neg_sample_batch_eval(batched_data)
        return self._fair(users, scores, positive_u, positive_i)

    def _user_rows(self, interaction, scores, target, history) -> pd.DataFrame:
        best, items = scores.topk(max(self.config["topk"]), dim=1)
        items = items.masked_fill(best <= torch.finfo(best.dtype).min, 0).cpu().numpy()
        rank = target_rank(scores, target).cpu().numpy().astype(np.float64)
        rows = interaction[TARGET_ROW].cpu()
        tied = pd.array(self.sequences.tied(rows).numpy(), dtype="boolean")
        tied[~self.sequences.timed(rows).numpy()] = pd.NA
        return pd.DataFrame({
            "user": interaction[self.config["USER_ID_FIELD"]].cpu().numpy(), "target": target.cpu().numpy(),
            "rank": np.where(rank == 0, np.nan, rank), "tied": tied,
            "history": (history > 0).sum(1).numpy(),
            "in_history": (history == target.cpu().unsqueeze(1)).any(1).numpy(),
            "topk": [row[row > 0].tolist() for row in items],
        })


def two_stages(config) -> bool:
    """Whether a run pre-trains and then fine-tunes. RecBole's S3Rec calls the first of its two runs ``pretrain``."""
    return config["train_stage"] == ("pretrain" if config["model"] == "S3Rec" else "both")


class TwoStageTrainer(GenRecTrainer):
    """Pre-training, then fine-tuning of the same model object with a fresh optimizer, in one run (S3Rec, GenRecT5).

    RecBole wants two runs of S3Rec and a pickled checkpoint between them; the second stage only needs another loss.

    Args:
        pretrain_data: loader of the first stage; the others as :class:`GenRecTrainer`.
    """

    def __init__(self, config, model, dataset, model_dir: Path, pretrain_data):
        super().__init__(config, model, dataset, model_dir)
        self.pretrain_data = pretrain_data

    def fit(self, train_data, valid_data=None, show_progress=False, **kwargs):
        with contextlib.suppress(_BudgetSpent):  # one epoch of fine-tuning is trained in any case
            for epoch in range(self.config["pretrain_epochs"]):
                self._train_epoch(self.pretrain_data, epoch, show_progress=show_progress)
                self.curve[-1]["stage"] = "pretrain"
        self.epochs_done = 0
        self.model.train_stage = "finetune"
        self.model.loss_fct = BPRLoss() if self.config["loss_type"] == "BPR" else torch.nn.CrossEntropyLoss()
        self.optimizer = self._build_optimizer()
        return super().fit(train_data, valid_data, show_progress=show_progress, **kwargs)
