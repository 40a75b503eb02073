"""``import recbole_genrec`` is enough for RecBole to find our models, and does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def python(folder: Path, code: str) -> str:
    """What a fresh interpreter prints for ``code``, from within ``folder``."""
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": paths}, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recbole_finds_our_model_and_keeps_its_own(tmp_path):
    python(tmp_path, """
from recbole.utils import get_model                      # before us: the name is bound already
import recbole_genrec
from recbole_genrec.model.sequential_recommender.genrec import GenRec
import recbole.model.sequential_recommender.genrec as alias, recbole_genrec.model.sequential_recommender.genrec as real
assert get_model("GenRec") is GenRec
assert alias is real and real.__spec__.name == real.__name__ == GenRec.__module__

from recbole.model.general_recommender.pop import Pop
assert get_model("Pop") is Pop                           # RecBole's, for RecBole
from recbole_genrec.model.registry import get_model as ours
from recbole_genrec.model.sequential_recommender.pop import Pop as OurPop
assert ours("Pop") is OurPop is not Pop and ours("GenRec") is GenRec
assert get_model("SASRec") is ours("SASRec")
for name in ("Base", "NoSuchModel"):
    try:
        get_model(name)
    except (ValueError, ImportError):                    # RecBole's last try imports lightgbm
        continue
    raise AssertionError(name)
""")


def test_recboles_own_config_knows_our_model(tmp_path):
    """Also after a second registration; the settings are ours, RecBole's models keep RecBole's."""
    python(tmp_path, """
import sys
import recbole_genrec
from recbole_genrec.model.registration import register
register()
from recbole.config import Config
from recbole.utils import get_model
from recbole_genrec.model.sequential_recommender.genrec import GenRec
assert sum(type(finder).__name__ == "_AliasFinder" for finder in sys.meta_path) == 1
config = Config(model="GenRec", dataset="ml-100k", config_dict={"epochs": 3})
assert config.model_class is GenRec is get_model("GenRec")
assert config["llm"] == "tiny-llama" and config["epochs"] == 3 and config["title_field"] == "movie_title"
assert config["eval_args"]["split"] == {"LS": "valid_and_test"} and config["topk"] == [5, 10, 20]
theirs = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None})
assert theirs["title_field"] is None and theirs["topk"] == [10]
""")


def test_import_is_light_and_touches_nothing(tmp_path):
    """No heavy library but those that RecBole itself loads, no file opened in the working folder, none left."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "overall.yaml").write_text("never: read")
    python(tmp_path, """
import os, sys
import recbole.config
import recbole.utils
theirs = set(sys.modules)
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import recbole_genrec
ours = {name.split(".")[0] for name in set(sys.modules) - theirs}
assert not ours & {"transformers", "ray", "peft", "tokenizers"}, ours
assert "ray" not in sys.modules
here = [path for path in opened if os.path.abspath(path).startswith(os.getcwd() + os.sep)]
assert not here, here
models = "recbole_genrec.model.sequential_recommender."
assert not any(name.startswith(models) for name in sys.modules), "a model was loaded"
""")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dataset", "overall.yaml"]


def test_numpy_has_the_names_that_recbole_uses(tmp_path):
    python(tmp_path, """
import warnings
warnings.simplefilter("error", FutureWarning)
import recbole_genrec
import numpy as np
assert [np.float, np.int, np.bool, np.object, np.str, np.complex] in (
    [float, int, bool, object, str, complex], [float, int, np.bool_, object, str, complex])
assert np.array([1.5]).astype(np.int).tolist() == [1]
""")


def test_a_recbole_model_does_not_turn_on_anomaly_detection(tmp_path):
    assert python(tmp_path, """
import torch
from recbole_genrec.model.registry import get_model
get_model("SASRec")
print(torch.is_anomaly_enabled())
""").split()[-1] == "False"
