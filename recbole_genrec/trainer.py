"""RecBole's training loop with accumulation, a schedule, a time budget, exact resume and several processes."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from recbole.model.loss import BPRLoss
from torch import Tensor
from torch.nn.utils.clip_grad import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import get_scheduler

from recbole_genrec.evaluation.cost import Work, training_cost
from recbole_genrec.evaluation.fair import FairTrainer
from recbole_genrec.files import flush
from recbole_genrec.running import parallel, termination
from recbole_genrec.running.averaging import Average
from recbole_genrec.running.checkpoint import (Checkpoints, model_state, optimizer_state, random_state, set_model_state,
                                               set_optimizer_state, set_random_state)
from recbole_genrec.running.failures import Diverged
from recbole_genrec.running.weights import load_weights, put_back, put_in_place, save_weights, weights_are_whole

log = logging.getLogger("recbole_genrec")


class _BudgetSpent(Exception):
    """``max_train_minutes`` is over; raised between epochs."""


@dataclass
class Pass:
    """How far the pass over an epoch's batches is.

    Attributes:
        order: the loader's generator as it was when the epoch began; it draws the order of the samples.
        batch: batches done.
        loss: sum of their losses.
        work: what went through the model; of this process alone.
        seconds: that they took.
        random: generators to put back once the batches done before have been passed over.
    """

    order: Tensor
    batch: int = 0
    loss: float = 0.0
    work: Work = field(default_factory=Work)
    seconds: float = 0.0
    random: tuple | None = None


class GenRecTrainer(FairTrainer):
    """Trains and evaluates any model of the harness, ours or RecBole's.

    Args:
        config: the run's configuration.
        model: the model.
        dataset: the whole data set (histories to mask, exact times).
        run_dir: the run's folder: ``model`` holds the best model, ``checkpoints`` the states that training can go on
            from. If there are such, it does.
    """

    #: What is trained, for a model that is trained for several things in turn.
    stage = ""

    def __init__(self, config, model, dataset, run_dir: Path):
        super().__init__(config, model, dataset)
        self.model_dir = Path(run_dir) / "model"
        self.checkpoints = Checkpoints(Path(run_dir) / "checkpoints")
        if parallel.is_main():
            put_back(self.model_dir)
        parallel.gather(None)  # it is there before anybody looks
        self._found = self._readable(self.checkpoints.read())
        #: How often the run was taken up again after it had been broken off.
        self.restarts = 0 if self._found is None else self._found[1]["restarts"] + 1
        self.train_seconds = 0.0
        self.epochs_done = 0
        self.work = Work()
        #: FLOPs a target of a model that cannot tell them from its work; see evaluation/cost.py.
        self.flops_per_target: float | None = None
        self.curve: list[dict] = []
        self.scheduler = None
        #: Of the weights, while they are trained under ``ema_decay``.
        self.average: Average | None = None
        self._pass: Pass | None = None
        self._kept_at = time.monotonic()

    def _readable(self, found):
        """The state, unless the best model that it counts on is not there or torn: then training begins anew."""
        if found is not None and found[1]["best"][1] is not None and not weights_are_whole(self.model_dir):
            log.warning("warning: %s is not there or damaged: training begins anew", self.model_dir)
            return None
        return found

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
        """RecBole's ``fit`` under ``lr_scheduler_type``, ``warmup_steps``, ``ema_decay`` and ``max_train_minutes``."""
        self.scheduler = None
        self.average = Average(self.model, self.config["ema_decay"]) if self.config["ema_decay"] else None
        name = self.config["lr_scheduler_type"]
        if name and name != "constant":
            steps = max(1, self.epochs * math.ceil(len(train_data) / self.config["gradient_accumulation_steps"]))
            # A short run would otherwise end inside the warm-up.
            warmup = min(self.config["warmup_steps"] or 0, steps // 5)
            self.scheduler = get_scheduler(name, self.optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        if self._go_on(train_data):
            self.eval_collector.data_collect(train_data)  # what is left of RecBole's fit
            return self.best_valid_score, self.best_valid_result
        try:
            super().fit(train_data, valid_data, **kwargs)
        except _BudgetSpent:
            if not self.model_dir.exists():
                self._save_checkpoint(self.epochs_done - 1)
        self._pass = None
        self.keep(train_data, self.epochs_done, done=True)
        return self.best_valid_score, self.best_valid_result

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        budget = self.config["max_train_minutes"]
        if self._pass is None and self.epochs_done and budget and parallel.from_main(self.train_seconds > 60 * budget):
            raise _BudgetSpent
        self.model.epoch = epoch_idx  # a model that draws its samples anew each epoch reads it
        with termination.held():  # to the end of a step, where the state can be kept
            done = self._pass_over(train_data, epoch_idx, loss_func or self.model.calculate_loss, show_progress)
        self.work = self.work + _of_all(done.work)
        self.train_seconds += done.seconds
        self.epochs_done += 1
        self._pass = None
        self.curve.append({"epoch": epoch_idx, "seconds": round(done.seconds, 3),
                           "loss": done.loss / max(1, len(train_data))})
        return done.loss

    def _pass_over(self, train_data, epoch_idx, loss_func, show_progress) -> Pass:
        """Train on each batch once, or on those that are left.

        RecBole's own loop takes an optimizer step a batch. Here ``gradient_accumulation_steps`` batches make one, and
        several processes share each, with the gradient that they would have as one batch: every part counts by the
        terms of its mean (for a model that does not say, by its rows).
        """
        self.model.train()
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        group, batches = self.config["gradient_accumulation_steps"], len(train_data)
        now = self._pass = self._pass or Pass(train_data.generator.get_state())
        left = self._batches(train_data, epoch_idx, show_progress)
        began = time.monotonic() - now.seconds
        losses: list[tuple[float, Any]] = []
        for number, interaction in enumerate(left, now.batch + 1):
            interaction, real = parallel.own_rows(interaction)
            interaction = interaction.to(self.device)
            # RecBole has no count of its own models' operations: the first batch is watched.
            watch = self.epochs_done == 0 and number == 1 and not hasattr(self.model, "training_flops")
            with FlopCounterMode(display=False) if watch else contextlib.nullcontext() as counter:
                with torch.autocast(self.device.type, enabled=self.enable_amp):
                    parts = loss_func(interaction)
                loss = sum(parts) if isinstance(parts, tuple) else parts
                work = getattr(self.model, "work", None) or Work(targets=len(interaction), terms=len(interaction))
                weight = (work.terms if self._weighted else 1) * real
                scaler.scale(loss * weight).backward()
            if watch:
                self.flops_per_target = counter.get_total_flops() / work.numbers().targets
            losses.append((loss.item(), weight))
            now.work = now.work + work if real else now.work
            if number % group == 0 or number == batches:
                mean, terms, stop, due = self._agree(losses, epoch_idx, number, batches)
                self._step(scaler, terms)
                now.loss, now.batch, losses = now.loss + mean, number, []
                now.seconds = time.monotonic() - began
                if due or stop or number == batches:
                    self.keep(train_data, epoch_idx)
                    began = time.monotonic() - now.seconds  # training is what is timed
                if stop:
                    self._stop()
        now.work = now.work.numbers()
        return now

    def _batches(self, train_data, epoch_idx, show_progress):
        """The epoch's batches, without those that are done; the generators then stand where they stood."""
        now = self._pass
        batches = iter(())
        if now.batch < len(train_data):
            batches = iter(train_data)
            for _ in range(now.batch):
                next(batches)
        if now.random is not None:
            set_random_state(*now.random)
        return tqdm(batches, f"train {epoch_idx}", total=len(train_data), initial=now.batch, ncols=100) \
            if show_progress and parallel.is_main() else batches

    @property
    def _weighted(self) -> bool:
        """Whether an optimizer step is made of parts, each of which counts by its terms."""
        return self.config["gradient_accumulation_steps"] > 1 or parallel.size() > 1

    def _agree(self, losses, epoch_idx, number, batches) -> tuple[float, Any, bool, bool]:
        """What all processes must know before a step.

        Returns:
            the sum of the batches' mean losses; of how many terms they are the means, where that matters; whether a
            signal has come to one of them; whether a state is due.
        Raises:
            Diverged: a loss is no finite number: the weights are still those before it.
        """
        minutes = self.config["checkpoint_minutes"]
        due = bool(minutes) and time.monotonic() - self._kept_at > 60 * minutes
        stop = termination.pending() is not None
        means, weights = zip(*losses)
        if parallel.size() > 1:
            stop, due, *sums = parallel.total([stop, due and parallel.is_main(), *(
                value for loss, weight in losses for value in (loss * float(weight), float(weight)))])
            weights = sums[1::2]
            means = [loss / weight for loss, weight in zip(sums[::2], weights)]
        if not all(map(math.isfinite, means)):
            raise Diverged(f"{means[-1]} in epoch {epoch_idx}, batch {number} of {batches}: lower "
                           f"learning_rate ({self.config['learning_rate']}) or set clip_grad_norm")
        return sum(means), sum(weights), bool(stop), bool(due)

    def _step(self, scaler, terms) -> None:
        """One optimizer step; where it is made of parts, with the gradient of their mean."""
        trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        if self._weighted or self.clip_grad_norm:
            scaler.unscale_(self.optimizer)
        if self._weighted:
            parallel.add_up_gradients(trained)
            for weight in trained:
                if weight.grad is not None:
                    weight.grad /= terms
        if self.clip_grad_norm:
            clip_grad_norm_(trained, **self.clip_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        if self.scheduler is not None:
            self.scheduler.step()

    def _stop(self) -> None:
        """End as the signal asks, wherever it came in."""
        termination.raise_pending()
        raise termination.Terminated  # it came to another process

    def _valid_epoch(self, valid_data, show_progress=False):
        with self._averaged():
            score, result = super()._valid_epoch(valid_data, show_progress)
        self.curve[-1]["valid"] = {metric: float(value) for metric, value in result.items()}
        return score, result

    def _averaged(self) -> contextlib.AbstractContextManager:
        """The model as it is evaluated and kept."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

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
        with termination.held(), self._averaged():
            if parallel.is_main():
                shutil.rmtree(fresh, ignore_errors=True)
                save_weights(self.model, fresh)
                for file in (*fresh.iterdir(), fresh):
                    flush(file)
                put_in_place(fresh, self.model_dir)

    def load_best(self) -> None:
        """Give the model the weights of the best epoch."""
        parallel.gather(None)  # they are written
        load_weights(self.model, self.model_dir)

    def keep(self, train_data, epoch_idx: int, done: bool = False) -> None:
        """Write the state of training, so that a run that is killed goes on from here, to the same end."""
        now = self._pass or Pass(train_data.generator.get_state())
        randoms = parallel.gather(random_state())
        optimizer, rest = optimizer_state(self.optimizer)
        tensors = {"weights": model_state(self.model), "optimizer": optimizer,
                   "random": {f"{rank}.{name}": tensor for rank, (tensors, _) in enumerate(randoms)
                              for name, tensor in tensors.items()},
                   "order": {"epoch": now.order, "now": train_data.generator.get_state()},
                   **({} if self.average is None else {"average": self.average.state()})}
        state = {"stage": self.stage, "done": done, "epoch": epoch_idx, "batch": now.batch, "loss": now.loss,
                 "restarts": self.restarts, "work": asdict(_of_all(now.work.numbers())), "seconds": now.seconds,
                 "optimizer": rest, "random": [rest for _, rest in randoms],
                 "scheduler": self.scheduler and self.scheduler.last_epoch,
                 "best": [self.best_valid_score, self.best_valid_result, self.cur_step],
                 "totals": [self.train_seconds, self.epochs_done, asdict(self.work), self.flops_per_target, self.curve]}
        with termination.held():
            if parallel.is_main():
                self.checkpoints.write(tensors, state)
        self._kept_at = time.monotonic()

    def _go_on(self, train_data) -> bool:
        """Take up the state that was found, if it is one of this stage. Returns whether all is trained."""
        if self._found is None or self._found[1]["stage"] != self.stage:
            return False
        (tensors, state), self._found = self._found, None
        set_model_state(self.model, tensors["weights"])
        set_optimizer_state(self.optimizer, tensors["optimizer"], state["optimizer"])
        if self.average is not None:
            self.average.set_state(tensors["average"])
        if self.scheduler is not None:
            self.scheduler.last_epoch = state["scheduler"]
        self.best_valid_score, self.best_valid_result, self.cur_step = state["best"]
        self.train_seconds, self.epochs_done, work, self.flops_per_target, self.curve = state["totals"]
        self.work = Work(**work)
        rank = parallel.rank() % len(state["random"])
        random = ({name.partition(".")[2]: tensor for name, tensor in tensors["random"].items()
                   if name.startswith(f"{rank}.")}, state["random"][rank])
        if state["done"]:
            train_data.generator.set_state(tensors["order"]["now"])
            set_random_state(*random)
            return True
        whole = state["batch"] == len(train_data)
        train_data.generator.set_state(tensors["order"]["now" if whole else "epoch"])
        work = Work(**state["work"]) if parallel.is_main() else Work()
        self._pass = Pass(tensors["order"]["epoch"], state["batch"], state["loss"], work, state["seconds"], random)
        self.start_epoch = state["epoch"]
        return False


def _of_all(work: Work) -> Work:
    """The work of all processes together."""
    return Work(*map(int, parallel.total(list(asdict(work).values()))))


def two_stages(config) -> bool:
    """Whether a run pre-trains and then fine-tunes. RecBole's S3Rec calls the first of its two runs ``pretrain``."""
    return config["train_stage"] == ("pretrain" if config["model"] == "S3Rec" else "both")


class TwoStageTrainer(GenRecTrainer):
    """Pre-training, then fine-tuning of the same model object with a fresh optimizer, in one run (S3Rec, GenRecT5).

    RecBole wants two runs of S3Rec and a pickled checkpoint between them; the second stage only needs another loss.

    Args:
        pretrain_data: loader of the first stage; the others as :class:`GenRecTrainer`.
    """

    stage = "pretrain"

    def __init__(self, config, model, dataset, run_dir: Path, pretrain_data):
        super().__init__(config, model, dataset, run_dir)
        self.pretrain_data = pretrain_data

    def fit(self, train_data, valid_data=None, show_progress=False, **kwargs):
        if self._found is None or self._found[1]["stage"] == self.stage:
            self._go_on(self.pretrain_data)
            with contextlib.suppress(_BudgetSpent):  # one epoch of fine-tuning is trained in any case
                for epoch in range(self.start_epoch, self.config["pretrain_epochs"]):
                    self._train_epoch(self.pretrain_data, epoch, show_progress=show_progress)
                    self.curve[-1]["stage"] = self.stage
        self.start_epoch = self.epochs_done = 0
        self.stage = self.model.train_stage = "finetune"
        self.model.loss_fct = BPRLoss() if self.config["loss_type"] == "BPR" else torch.nn.CrossEntropyLoss()
        self.optimizer = self._build_optimizer()
        return super().fit(train_data, valid_data, show_progress=show_progress, **kwargs)
