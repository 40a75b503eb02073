"""How one run, of a model on a data set with a seed, becomes a record."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Collection

import numpy as np
import pandas as pd
import torch
import yaml
from recbole.utils import init_seed

from recbole_genrec.config import Config
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.files import check_dataset
from recbole_genrec.data.fingerprint import numbering_fingerprint
from recbole_genrec.data.leakage import find_leaks, index_leak
from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import TARGET_ROW
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation import audit
from recbole_genrec.evaluation.cost import Peak, processor
from recbole_genrec.evaluation.popularity import list_metrics, training_counts
from recbole_genrec.evaluation.significance import gains
from recbole_genrec.evaluation.validity import free_generation
from recbole_genrec.files import flush, write_atomically
from recbole_genrec.records import write_record
from recbole_genrec.running import failures, parallel, runs, termination
from recbole_genrec.running.checkpoint import Checkpoints
from recbole_genrec.running.inputs import inputs_fingerprint
from recbole_genrec.running.termination import Terminated
from recbole_genrec.settings import CARRYING_OUT, LATER
from recbole_genrec.trainer import GenRecTrainer, TwoStageTrainer, two_stages
from recbole_genrec.version import __version__

log = logging.getLogger("recbole_genrec")


def config_hash(config: Config, without: Collection[str] = ()) -> str:
    """Hash of every setting that bears on the numbers, but for the keys in ``without``."""
    # What is not used is left out, so that such runs hash as they did before there was such a setting.
    unused = {key for key, neutral in LATER.items() if config[key] == neutral}
    if config["candidates"] is None:
        unused |= {"candidates", "candidate_seed"}
    settings = {key: value for key, value in config.final_config_dict.items()
                if key not in CARRYING_OUT | unused and key not in without}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def run(config: Config, output_dir: Path, wait: bool = True, test: bool = True, **labels: Any) -> dict[str, Any]:
    """Train, validate and test one model on one data set with one seed, and write its record.

    The same run is not carried out twice: one that is done is not trained again (``force: true`` does), one that was
    broken off is gone on with (``resume: false`` begins anew).

    Args:
        config: the run's configuration.
        output_dir: where ``runs/`` is.
        wait: whether to wait for a process that carries out the same run.
        test: False for a trial of a search: no test user is looked at, and the record says ``tested: false``.
        labels: what the record shall hold besides, for example what the run is a variant of.
    Returns:
        the record; ``status`` is ``ok``, or ``failed`` with the ``reason``.
    Raises:
        UserError: before anything is trained.
        Busy: another process carries out the same run.
        KeyboardInterrupt, Terminated: after the record was written, with status ``interrupted``.
    """
    check_dataset(config)
    peak = Peak(config["device"])
    init_seed(config["seed"], config["reproducibility"])
    data = Data.load(config)
    facts = {"dataset": config["dataset"], "model": config["model"], "seed": config["seed"], **labels,
             "config_hash": config_hash(config), "version": __version__, "dataset_fingerprint": data.fingerprint,
             "split_fingerprint": data.split_fingerprint, "numbering_fingerprint": numbering_fingerprint(data.dataset),
             "inputs_fingerprint": inputs_fingerprint(config), "versions": _versions(), "machine": _machine(config),
             "settings_label": config["settings_label"], **({} if test else {"tested": False})}
    with runs.taken_by_all(output_dir, facts, config["resume"], config["force"], wait) as place:
        if place.record is not None:
            log.info("done before, as run %s; --force trains it again", place.folder.name)
            Checkpoints(place.folder / "checkpoints").clear()  # of a run that was killed when all but this was done
            return place.record
        # It may have begun on another machine: the record tells of the one where it ends.
        return _carry_out(config, data, peak, runs.Place(place.folder, {**place.begun, **facts}))


def _carry_out(config: Config, data: Data, peak: Peak, place: runs.Place) -> dict[str, Any]:
    """A run in its folder; its record is written whatever happens."""
    folder, record = place.folder, place.begun
    config["checkpoint_dir"], began = str(folder), time.time()
    if parallel.is_main():
        write_atomically(folder / "config.yaml", _config_yaml(config))
    try:
        record = {**record, **_measure(config, data, peak, folder, record.get("tested", True)), "status": "ok"}
    except UserError:
        # Found before training: nothing was measured, so there is no row to keep.
        if parallel.is_main() and not (folder / "checkpoints").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except (KeyboardInterrupt, Terminated) as stop:
        if parallel.is_main():
            write_record(folder, {**record, "status": "interrupted", "reason": termination.REASONS[type(stop)]})
        raise
    except Exception as error:
        if failures.lost_contact(error) and (told := runs.record_since(folder, began)) is not None:
            return told
        record = {**record, "status": "failed", "reason": failures.reason(error)}
        if not failures.out_of_storage(error):
            write_atomically(folder / "traceback.txt", traceback.format_exc())
    if parallel.is_main() or record["status"] != "ok":
        write_record(folder, record)
    if parallel.is_main() and record["status"] == "ok":
        Checkpoints(folder / "checkpoints").clear()
        (folder / "traceback.txt").unlink(missing_ok=True)
    return record


def _measure(config: Config, data: Data, peak: Peak, run_dir: Path, tested: bool) -> dict[str, Any]:
    """Everything that a successful run adds to its record."""
    init_seed(config["seed"], config["reproducibility"])
    model = _make_model(config, data)
    trainer, valid_result, test = _train(config, data, model, run_dir)
    counts = training_counts(data.parts[0])
    results, users = _test(config, data, trainer, test, counts, run_dir) if tested else ({}, None)
    record = {
        **results, "valid": None if valid_result is None else dict(valid_result),
        "dropped_interactions": data.dataset.dropped_interactions, **_candidates(config, data, trainer),
        **trainer.cost(), "epochs_done": trainer.epochs_done, "restarts": trainer.restarts, **peak.record(),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total_parameters": sum(p.numel() for p in model.parameters()), "curve": trainer.curve,
    }
    if hasattr(model, "describe"):
        record.update(model.describe())
    if tested and getattr(model, "generative", False):
        # Listed candidates are scored: nothing is decoded.
        record.update(decode=None if trainer.candidates else config["decode"], norm=config["norm"],
                      layout=config["layout"], objective=config["objective"])
        if config["validity_users"]:
            record.update(free_generation(model, test, config["validity_users"]))
    # Last: the memory of the checks is no part of the run's.
    record = _check(config, data, model, record, users, counts) if tested else record
    parallel.gather(None)  # nobody is at it any more when the record is written
    return record


def _train(config: Config, data: Data, model, run_dir: Path) -> tuple[GenRecTrainer, dict | None, Any]:
    """The trainer, its model trained and the best epoch's; the result of validation, if any; the test loader."""
    train, valid, test = data.loaders(config, model)
    if two_stages(config):
        rows = model.pretraining_rows(data.parts[0]) if hasattr(model, "pretraining_rows") else None
        first = train if rows is None else data.loaders(config, model, rows)[0]
        trainer = TwoStageTrainer(config, model, data.dataset, run_dir, first)
    else:
        trainer = GenRecTrainer(config, model, data.dataset, run_dir)
    if getattr(model, "evaluation_only", False):
        trainer.eval_collector.data_collect(train)
        return trainer, None, test
    _, valid_result = trainer.fit(train, valid, show_progress=config["show_progress"], verbose=False)
    trainer.load_best()
    return trainer, valid_result, test


def _test(config: Config, data: Data, trainer: GenRecTrainer, test, counts: np.ndarray,
          run_dir: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What the tests say, for the record, and every user's list, which is on the disk by then."""
    model, masked, progress = trainer.model, trainer.mask_history, config["show_progress"]
    generative = getattr(model, "generative", False)
    if generative:
        model.lists = model.exact_lists = 0
    began = time.monotonic()
    metrics, users = trainer.test(test, masked, show_progress=progress)
    seconds = time.monotonic() - began
    record = dict(metrics)
    if generative:
        lists, exact = parallel.total([model.lists, model.exact_lists])
        record["exact_share"] = exact / lists if lists else None  # None: nothing decoded
    _write_per_user(run_dir, data.dataset, users, counts)
    unmasked = None if masked else users
    if masked and config["test_unmasked"]:
        unmasked = trainer.test(test, False, show_progress=progress)[1]
    if sets := getattr(model, "prompt_sets", ()):
        record.update(prompts=sets[0], other_prompts={})
        for model.prompt_set in sets[1:]:
            record["other_prompts"][model.prompt_set], others = trainer.test(test, masked, show_progress=progress)
            _write_per_user(run_dir, data.dataset, others, counts, f"per_user.{model.prompt_set}.parquet")
        model.prompt_set = sets[0]
    if masked and (unreachable := int(users["in_history"].sum())):
        log.warning("warning: the history is masked, but %d of %d test items are in it and can never be found; "
                    "--mask_history=false or repeat_consumption: true", unreachable, len(users))
    untied = users[~users["tied"].fillna(True)]
    for name, part in (("unmasked", unmasked), ("untied", untied)):
        if part is not None:
            record.update({f"{metric}_{name}": value
                           for metric, value in rank_metrics(part["rank"], config["topk"]).items()})
    return {**record, "users": len(users), "untied_users": len(untied) if users["tied"].notna().any() else None,
            "mask_history": masked, "targets_in_history": int(users["in_history"].sum()),
            "eval_users_per_second": round(len(users) / seconds, 2)}, users


def _check(config: Config, data: Data, model, record: dict[str, Any], users: pd.DataFrame,
           counts: np.ndarray) -> dict[str, Any]:
    """The record with what its checks say: of the lists, of the metrics themselves, of what gives test items away."""
    record.update(_checked(data, "metrics of lists", lambda: list_metrics(config, users["topk"], counts)) or {})
    record["audit"] = _checked(data, "audit of the metrics", lambda: audit.of_record(record))
    record["leakage"] = _checked(data, "leak checks", lambda: find_leaks(data.dataset, data.parts))
    if getattr(model, "generative", False) and model.index.numbers is not None:
        record["index_leak"] = _checked(data, "probe of the item index", lambda: index_leak(
            data.dataset, data.parts[2], model.index.numbers))
        flagged = bool(record["index_leak"] and record["index_leak"]["flagged"])
        record["leaky"] = record.get("leaky", False) or flagged
    if record.get("leaky"):
        log.warning("warning: item_index=%s gives test items away: this run is leaky, and its row says so",
                    config["item_index"])
    return record


def _make_model(config: Config, data: Data):
    """The model, the same in all processes, its frozen layers in pieces where ``fsdp`` says so."""
    model = config.model_class(config, data.parts[0])
    if config["fsdp"]:
        if not model.pretrained:
            raise UserError(f"fsdp=true cuts frozen weights; --llm={config['llm']} has none, it starts from scratch")
        parallel.cut_frozen(model, model.backbone.layers)
    model = model.to(config["device"])
    if not config["fsdp"]:
        parallel.same_weights(model)
    if parallel.rank():
        torch.manual_seed(config["seed"] + parallel.rank())  # dropout of its own; other generators draw the data
    return model


def _candidates(config: Config, data: Data, trainer: GenRecTrainer) -> dict[str, Any]:
    """What the targets of the test were ranked among."""
    if trainer.candidates is None:
        return {"candidates": None}
    return {"candidates": config["candidates"], "candidate_seed": config["candidate_seed"],
            "candidates_fingerprint": trainer.candidates.fingerprint(data.parts[2].inter_feat[TARGET_ROW])}


def _checked(data: Data, name: str, check: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a check found, for the record; one that breaks costs no run."""
    try:
        return check()
    except Exception as error:
        log.warning("warning: the %s of %s failed: %s: %s", name, data.dataset.dataset_name, type(error).__name__,
                    error)
        return None


def rank_metrics(rank: pd.Series, topk: list[int]) -> dict[str, float]:
    """hit@k and ndcg@k of one target per user, from ranks (NaN: not recommended); RecBole's definitions."""
    rank = rank.to_numpy(dtype=float)
    return {metric: float(gains(rank, metric).mean()) if len(rank) else None
            for k in topk for metric in (f"hit@{k}", f"ndcg@{k}")}


def _write_per_user(run_dir: Path, dataset: GenRecDataset, users: pd.DataFrame, counts: np.ndarray,
                    name: str = "per_user.parquet") -> None:
    """Users, lists and ranks by raw ids, so that runs can be compared whatever RecBole's numbering.

    ``counts`` (``[n_items]``) is how often an item occurs in training: the file has it for each user's target.
    """
    if not parallel.is_main():
        return
    raw_users = dataset.field2id_token[dataset.uid_field].astype(str)
    raw_items = dataset.field2id_token[dataset.iid_field].astype(str)
    table = users.assign(user=raw_users[users["user"]], target=raw_items[users["target"]],
                         target_count=counts[users["target"]], rank=users["rank"].astype("Int64"),
                         topk=[raw_items[row].tolist() for row in users["topk"]])
    temporary = run_dir / f"{name}.tmp"
    table.to_parquet(temporary, index=False)
    flush(temporary)
    temporary.replace(run_dir / name)


def _config_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``--config_files`` takes back."""
    plain = {key: value for key, value in config.final_config_dict.items()
             if isinstance(value, (str, int, float, bool, list, dict, type(None)))
             and key not in {"checkpoint_dir", "data_path", "output_dir", "llm_cache", "single_spec", "local_rank",
                             "resume", "force", "checkpoint_minutes", "fsdp", "gpu_id",
                             "valid_metric_bigger", "valid_neg_sample_args", "test_neg_sample_args"}}
    if plain["train_neg_sample_args"].get("distribution") == "none":  # RecBole's way to write None
        plain["train_neg_sample_args"] = None
    return yaml.safe_dump(plain, sort_keys=True, allow_unicode=True)


def _versions() -> dict[str, str]:
    names = ("recbole", "torch", "transformers", "peft", "tokenizers", "numpy", "pandas")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _machine(config: Config) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if config["device"].type == "cuda" else None
    return {"processor": processor(), "threads": torch.get_num_threads(), "gpu": gpu, "processes": parallel.size()}
