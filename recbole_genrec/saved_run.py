"""A finished run, read back from its folder: its record, configuration, data and trained model."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from recbole_genrec.config import Config
from recbole_genrec.data.files import atomic_file, check_dataset
from recbole_genrec.data.fingerprint import numbering_fingerprint
from recbole_genrec.data.loading import Data
from recbole_genrec.errors import UserError, did_you_mean, first_sentence
from recbole_genrec.model.registry import get_model
from recbole_genrec.record_form import check_form
from recbole_genrec.running.weights import load_weights
from recbole_genrec.settings import check_name, read_yaml
from recbole_genrec.validation import known_keys

#: Where a run is looked for by its id alone.
RUNS = Path("results") / "runs"


def read_run(run_dir: str | os.PathLike,
             data_path: str | os.PathLike | None = None) -> tuple[dict[str, Any], Config, Data, Any]:
    """Record, configuration, data and model of a run.

    Args:
        run_dir: folder of a run with status ``ok``, or its id (looked up in ``results/runs``).
        data_path: folder that holds ``<dataset>/<dataset>.inter``; default ``dataset``.
    Raises:
        UserError: no such run, no weights (which are read from safetensors and nothing else), or other data than those
            that the run was trained on.
    """
    folder = find_run(run_dir)
    record = read_record(folder)
    config = read_config(folder, record, data_path)
    with warnings.catch_warnings():  # RecBole on today's pandas
        warnings.simplefilter("ignore", FutureWarning)
        data = Data.load(config)
    check_data(folder, record, data)
    model = config.model_class(config, data.parts[0]).to(config["device"])
    if not getattr(model, "evaluation_only", False):
        _read_weights(model, folder, record)
    return record, config, data, model


def find_run(run_dir: str | os.PathLike) -> Path:
    """The folder of a run, given as such or by its id. Raises UserError if there is none."""
    folder = Path(run_dir).expanduser()
    if not folder.is_dir():
        folder = RUNS / folder
    if not folder.is_dir():
        known = [path.parent.name for path in RUNS.glob("*/record.json")]
        raise UserError(f"no run '{run_dir}': neither a folder nor a run of {RUNS}" + did_you_mean(str(run_dir), known))
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished run. Raises UserError for any other."""
    try:
        record = json.loads((folder / "record.json").read_text("utf-8"))
        check_form(record)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{folder}' is not the folder of a run: it has no record.json that can be read "
                        f"({first_sentence(error)})") from None
    if record.get("status") != "ok":
        raise UserError(f"run '{folder.name}' has status {record.get('status')} ({record.get('reason')}): only a "
                        "finished run has what this needs")
    get_model(str(record.get("model")))
    check_name(str(record.get("dataset")))
    return record


def read_config(folder: Path, record: dict[str, Any], data_path: str | os.PathLike | None) -> Config:
    """The configuration of a run, on this machine. Raises UserError where its data set is not there."""
    model, dataset = record["model"], record["dataset"]
    known = known_keys(model, dataset)
    settings = {key: value for key, value in read_yaml(folder / "config.yaml").items() if key in known}
    if data_path is not None:
        settings["data_path"] = os.path.expanduser(data_path)
    config = Config(model, dataset, config_dict=settings)
    if not (path := atomic_file(config, "inter")).is_file():
        raise UserError(f"run '{folder.name}' needs its data set '{dataset}', and there is no {os.path.relpath(path)}: "
                        "say where it is by --data_path")
    check_dataset(config)
    return config


def check_data(folder: Path, record: dict[str, Any], data: Data) -> None:
    """Refuse, by a UserError, data that are not those of the run: its items would be taken for others."""
    now = {"dataset_fingerprint": data.fingerprint, "split_fingerprint": data.split_fingerprint,
           "numbering_fingerprint": numbering_fingerprint(data.dataset)}
    for name, found in now.items():
        if record.get(name) not in (None, found):
            what = "stand in another order than" if name.startswith("numbering") else "are not"
            raise UserError(f"the data of '{record['dataset']}' {what} those that run '{folder.name}' was trained on "
                            f"({name} {found}, not {record[name]})")


def _read_weights(model, folder: Path, record: dict[str, Any]) -> None:
    """Safetensors only."""
    if not (folder / "model").is_dir():
        raise UserError(f"run '{folder.name}' has no folder model/ with its weights: train it again, with "
                        f"--config_files={folder / 'config.yaml'}")
    try:
        load_weights(model, folder / "model")
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: of other shapes
        raise UserError(f"the weights of run '{folder.name}' cannot be loaded: {first_sentence(error)}") from None
    if hasattr(model, "index") and record.get("trie_fingerprint") not in (None, model.index.fingerprint):
        raise UserError(f"run '{folder.name}' was trained with items spelled otherwise (trie_fingerprint "
                        f"{model.index.fingerprint}, not {record['trie_fingerprint']}): the tokenizer has changed")
