"""Item indexes in runs: one of one's own, mistakes, every model with every index, leaky rows that say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_helpers import config_of, random_interactions, records, write_dataset
from test_indexes import OPTIONS
from test_records import rows_of

from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.index import register
from recbole_genrec.settings import property_file, read_yaml

pytestmark = pytest.mark.usefixtures("no_index_stays")

MINE = '''
from recbole_genrec.index.codes import spell

def build(material):
    """Spell an item by the length of its title and its raw id."""
    items = list(zip(material.catalogue.titles, material.catalogue.item_tokens))[1:]
    return spell(material, [(len(title), int(raw[1:])) for title, raw in items], {})
'''


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(40, 30, 6, 12))


def run(dataset: Path, out: Path, model: str, index: str, *more: str) -> int:
    return main(["run", f"--model={model}", "--dataset=tiny", f"--config_files={dataset}", f"--output_dir={out}",
                 "--epochs=1", "--train_batch_size=32", "--gradient_accumulation_steps=1", "--validity_users=0",
                 f"--item_index={index}", *more])


def test_an_index_of_ones_own_by_name_or_by_dotted_path(dataset, tmp_path, monkeypatch):
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "my_index.py").write_text(MINE)
    (tmp_path / "mypackage" / "no_index.py").write_text("")
    (tmp_path / "mypackage" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert run(dataset, tmp_path / "a", "GenRec", "mypackage.my_index") == 0
    import mypackage.my_index

    register("mine", mypackage.my_index.build)  # the one line
    assert run(dataset, tmp_path / "b", "GenRec", "mine") == 0
    (first,), (second,) = records(tmp_path / "a"), records(tmp_path / "b")
    assert first["trie_fingerprint"] == second["trie_fingerprint"]
    assert (first["item_index"], second["item_index"]) == ("mypackage.my_index", "mine")
    for path, message in (("mypackage.no_index", "no function build"), ("mypackage.none", "No module named"),
                          ("mypackage.broken", "ZeroDivisionError")):
        with pytest.raises(UserError, match=message) as caught:
            config_of(dataset, "GenRec", item_index=path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["title", "my.index", "", "two words"])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="cannot be called"):
        register(name, lambda material: None)


@pytest.mark.parametrize("settings, message", [
    ({"item_index": "titel"}, "'titel' is not one of .*did you mean 'title'"),
    ({"item_index": "shuffledid"}, "did you mean 'shuffled_id'"), ({"item_index": "codes"}, "is not one of"),
    ({"item_index": "../title"}, "is not one of"), ({"item_index": None}, "has no value"),
    ({"item_index": ["title"]}, "must be a text"), ({"item_index": "os"}, "is not one of"),
    ({"item_index": "no.such.module"}, "cannot be imported"), ({"semantic_codes": 1}, "at least 2"),
    ({"semantic_levels": 0}, "at least 1"), ({"collaborative_children": 1}, "at least 2"),
])
def test_a_mistake_is_one_sentence(dataset, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        config_of(dataset, "GenRec", **settings)
    assert "\n" not in str(caught.value)


def test_every_generative_model_has_the_settings_of_every_index():
    for model in ("GenRec", "RecSysLLM"):
        settings = read_yaml(property_file("model", model))
        assert OPTIONS.keys() <= settings.keys() and settings["item_index"] == "title"


# -------------------------------------------------------------------------------------------------- runs, records

@pytest.mark.parametrize("index", ["shuffled_id", "semantic", "collaborative"])
@pytest.mark.parametrize("model", ["GenRec", "RecSysLLM"])
def test_a_model_runs_with_any_index(dataset, tmp_path, model, index):
    assert run(dataset, tmp_path, model, index, "--collaborative_children=5", "--semantic_codes=4") == 0
    record, = records(tmp_path)
    assert record["status"] == "ok" and record["item_index"] == index and record["leaky"] is False
    assert ("index_leak" in record) == (index == "shuffled_id") and record["items"] == 30
    row, = rows_of(tmp_path / "leaderboard.csv")
    assert (row["item_index"], row["leaky"]) == (index, "False")


def test_a_leaky_run_says_so_everywhere(dataset, tmp_path, caplog, capsys):
    (tmp_path / "leak.yaml").write_text("{description: d, models: [GenRec], variants: "
                                        "{dealt: {item_index: shuffled_id}, met: {item_index: sequential}}}")
    assert run(dataset, tmp_path, "GenRec", "title", f"--ablation={tmp_path / 'leak.yaml'}") == 0
    printed = capsys.readouterr().out
    assert "leaky" in printed.splitlines()[0]
    dealt, met = (next(line for line in (tmp_path / "ablations/leak-GenRec-tiny.md").read_text().splitlines()
                       if line.startswith(f"| {variant}")) for variant in ("dealt", "met"))
    assert "LEAKY" in met and "LEAKY" not in dealt
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "leaderboard.csv").unlink()
    assert run(dataset, tmp_path, "GenRec", "sequential") == 0
    record, = records(tmp_path)
    row, = rows_of(tmp_path / "leaderboard.csv")
    assert record["leaky"] is True and (row["item_index"], row["leaky"]) == ("sequential", "True")
    assert "item_index=sequential gives test items away" in caplog.text
