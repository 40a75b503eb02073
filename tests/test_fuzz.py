"""Bad input, by the thousand: whatever is read or typed, the outcome is a result or one line that says what is wrong.

In an ordinary run each property tries a few inputs, always the same. To look for new ones::

    GENREC_FUZZ=2000 python -m pytest -p no:xdist -o addopts= tests/test_fuzz.py tests/test_fuzz_results.py

tries 2,000 a property and prints how many were tried. What was found stands beside the property, as an example.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from data_helpers import NAME, SETTINGS, config_of, random_interactions, write_dataset
from fuzz_helpers import HOSTILE, VALUE, fuzz, fuzz_folder, mutated, refusal, told, typed  # noqa: F401
from hypothesis import example, given
from hypothesis import strategies as st
from recbole.utils import argument_list

from dataset_converters import staging
from dataset_converters.cli import run as convert
from recbole_genrec import suite
from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.cli import main
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.files import check_dataset
from recbole_genrec.data.loading import Data
from recbole_genrec.encoder_texts.wording import PromptSets
from recbole_genrec.index.material import Material
from recbole_genrec.index.registry import build_index
from recbole_genrec.infilling.wording import Wording as BlankWording
from recbole_genrec.prompt import PromptTemplate
from recbole_genrec.settings import properties_dir, property_names
from recbole_genrec.validation import known_keys
from recbole_genrec.zero_shot.wording import Wording as ChatWording


@pytest.fixture(scope="module")
def folder(fuzz_folder):
    """The working folder of all examples, with a data set that is as it should be."""
    write_dataset(fuzz_folder, random_interactions(users=8))
    return fuzz_folder


# -------------------------------------------------------------------------------------------------- atomic files

INTER = "user_id:token\titem_id:token\ttime:float\n" + "".join(
    f"u{user}\ti{item}\t{user + item / 2}\n" for user in range(3) for item in range(user, user + 5))
ITEM = "item_id:token\ttitle:token\tclass:token_seq\n" + "".join(
    f"i{item}\tThe {item} story (199{item})\tplain Sci-Fi\n" for item in range(7))
SMALL = {**SETTINGS, "topk": [1, 5], "valid_metric": "NDCG@5", "filter_inter_by_user_or_item": True}


def load_written(folder: Path, inter: bytes, item: bytes, **more) -> None:
    """What a run does with a data set before it trains."""
    target = folder / "any"
    target.mkdir(exist_ok=True)
    (target / "any.inter").write_bytes(inter)
    (target / "any.item").write_bytes(item)
    path = folder / "any.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "data_path": str(folder), **more}))
    config = config_of(path, name="any")
    check_dataset(config)
    data = Data.load(config)
    Catalogue.from_dataset(data.dataset)


@fuzz(25)
@given(mutated(INTER), mutated(ITEM), st.sampled_from([None, None, None, "latin-1", "utf-16"]))
@example(INTER.encode(), ITEM.encode(), "utf-16")  # no byte order mark: UnicodeError without an encoding
@example(INTER.encode(), b"item_id:token\ttitle:token\tclass:token_seq", None)  # RecBole cut "seq" to "se"
def test_any_atomic_file(folder, inter, item, encoding):
    refusal("atomic files", lambda: load_written(folder, inter, item, encoding=encoding))


#: What RecBole reads a data set by.
LOADING = sorted(set(argument_list.dataset_arguments) | {"encoding", "title_format", "true_time_field", "candidates"})


@fuzz(25)
@given(st.sampled_from(LOADING), VALUE | st.sampled_from([*SETTINGS.values()]))
@example("field_separator", [1])
@example("val_interval", [1])
@example("title_format", "{title:>9999999999}")  # ten gigabytes
def test_any_setting_that_data_are_read_by(folder, key, value):
    refusal("settings of data", lambda: load_written(folder, INTER.encode(), ITEM.encode(), **{key: value}))


# ------------------------------------------------------------------------------------------ settings and arguments

YAMLS = [(properties_dir() / name).read_text("utf-8") for name in ("overall.yaml", "model/GenRec.yaml",
                                                                   "dataset/ml-100k.yaml")]
KEYS = sorted(known_keys("GenRec", NAME) | known_keys("SASRec", NAME))


@pytest.fixture(scope="module")
def nothing_trained(folder):
    """Runs stop where training would begin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "run", lambda config, folder, wait, **labels: {
            "run_id": "x", "dataset": config["dataset"], "model": config["model"], **labels, "status": "ok"})
        yield


def run_with(name: str, folder: Path, *arguments: str, codes=(0, 2)) -> str:
    return typed(name, main, ["run", f"--dataset={NAME}", f"--config_files={NAME}.yaml mine.yaml", "--output_dir=out",
                              *arguments], codes)


@fuzz(15)
@given(mutated(*YAMLS) | st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=3).map(
    lambda content: yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")))
def test_any_property_file(nothing_trained, folder, content):
    (folder / "mine.yaml").write_bytes(content)
    run_with("property files", folder, "--model=GenRec,SASRec")


ARGUMENTS = st.lists(st.sampled_from([
    "run", "check-data", "ablation", "report", "compare", "audit", "recommend", "demo", "--model=Pop",
    f"--dataset={NAME}", f"--config_files={NAME}.yaml", "--seed=1", "--llm=", "--", "-h", "--version",
    "--ablation=genrec", "--run=x",
    "--port=1", "--history", "--topk=0", "--published", "--output=x.html", "--metric=ndcg@10",
    "--item_index=sequential", "x.csv",
]) | st.text(max_size=12) | st.tuples(st.sampled_from(["--model", "--dataset", "--seed", "--llm", "--ablation", "--run",
                                                        "--output_dir", "--data_path", "--config_files", *KEYS]),
                                       st.text(max_size=10) | VALUE.map(str)).map("=".join), max_size=5)


@fuzz(20)
@given(ARGUMENTS)
def test_any_arguments(nothing_trained, folder, arguments):
    typed("arguments", main, arguments, (0, 1, 2))


@fuzz(20)
@given(st.sampled_from(KEYS), VALUE.map(str) | mutated(*(yaml.safe_dump(value)
                                                         for value in SETTINGS.values())).map(os.fsdecode))
def test_any_setting(nothing_trained, folder, key, value):
    (folder / "mine.yaml").write_text("")
    run_with("settings", folder, "--model=GenRec,SASRec,RecSysLLM,P5,ZeroShotLLM", f"--{key}={value}")


@fuzz(15)
@given(mutated(*((properties_dir() / "ablation" / f"{name}.yaml").read_text("utf-8")
                 for name in property_names("ablation"))))
def test_any_ablation(nothing_trained, folder, content):
    (folder / "mine.yaml").write_text("")
    (folder / "any.yaml").write_bytes(content)
    run_with("ablations", folder, "--model=GenRec", "--ablation=any.yaml")


# ----------------------------------------------------------------------------------------------- prompts and titles

PROMPTS = [(properties_dir() / "prompt" / f"{name}.yaml").read_text("utf-8") for name in property_names("prompt")]


def load_prompt(path: str) -> None:
    """What every model makes of its wording."""
    for make in (lambda: PromptTemplate.load(path, "movies", True), lambda: PromptSets.load(path, "movies"),
                 lambda: BlankWording.load(path, "movies"),
                 *(lambda mode=mode: ChatWording.load(path, mode, "movies").message(["A", "{b}"], 3, ["C", "}"])
                   for mode in ("rank", "score", "generate"))):
        refusal("prompts", make)


#: A wording of every model's form, each of its texts put together from slots, words and braces.
WORDING = st.lists(st.sampled_from(["{user}", "{history}", "{candidates}", "{mask}", "{count}", "{noun}", "{item}",
                                    "{{", "}}", "{", "}", "{history!r}", "{noun:>99999}", "{0}", "{}", "a ", "\n", ": ",
                                    "é"]),
                   max_size=6).map("".join)
PARTS = st.fixed_dictionaries({"seen": st.lists(WORDING | VALUE, max_size=2), "unseen": st.lists(WORDING,
                                                                                                 max_size=2)}) | VALUE
WORDINGS = st.fixed_dictionaries({}, optional={
    **dict.fromkeys(["prefix", "suffix", "separator", "infill", "rank", "score", "generate", "answer"],
                    WORDING | VALUE),
    **dict.fromkeys(["instructions", "seen", "unseen"], st.lists(WORDING, max_size=3) | VALUE),
    **dict.fromkeys(["sequential", "candidates"], PARTS), "version": VALUE,
    "domains": VALUE | st.fixed_dictionaries({"default": VALUE | st.fixed_dictionaries({"noun": WORDING | VALUE})})})


@fuzz(30)
@given(mutated(*PROMPTS) | WORDINGS.map(
    lambda content: yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")))
@example(b"{rank: '{history}{candidates}{count}{{x}}', answer: ''}")  # KeyError when the message was made
@example(b"{instructions: ['{noun:>9999999999}'], prefix: '{instruction}', suffix: '', domains: {default: {noun: a}}}")
def test_any_prompt(folder, content):
    (folder / "prompt.yaml").write_bytes(content)
    load_prompt("prompt.yaml")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The 1 story (1991)", "\n", ": "], 300)


TITLE = st.text(max_size=12) | st.sampled_from([piece.decode("utf-8", "replace")
                                                for piece in HOSTILE]) | st.sampled_from(
    ["<s>", "</s>", "<pad>", "<mask>", "[MASK]", "[2]", "The story", "The story [2]", "The story [3]", "item i1", "7",
     "007"])


@fuzz(40)
@given(st.lists(TITLE, min_size=1, max_size=8))
def test_any_titles_are_spelled_apart(tokenizer, titles):
    titles = [" ".join(title.split()) or f"item i{number}" for number, title in enumerate(titles, 1)]
    catalogue = Catalogue(["", *titles], ["[PAD]", *(f"i{number}" for number in range(1, len(titles) + 1))], 0)

    def spell() -> None:
        index = build_index("title", Material(catalogue, tokenizer))
        assert len({tuple(index.spelling(item)) for item in range(1, len(titles) + 1)}) == len(titles)
        assert index.trie is not None and index.nodes.shape == index.tokens.shape and index.fingerprint

    refusal("spellings", spell)


GENERATIVE = ["GenRec", "RecSysLLM", "GenRecT5", "P5"]


@fuzz(8)
@given(st.sampled_from(GENERATIVE), st.lists(TITLE, min_size=7, max_size=7))
def test_any_titles_in_every_models_texts(folder, model, titles):
    ask(folder, model, titles)


def ask(folder: Path, model: str, titles: list[str]) -> str | None:
    """Make a model of a catalogue with these titles, untrained, and ask it; the refusal, if there is one."""
    lines = [f"i{item}\t{' '.join(title.split())}\tplain\n" for item, title in enumerate(titles)]
    target = folder / "named"
    target.mkdir(exist_ok=True)
    (target / "named.inter").write_text(INTER)
    (target / "named.item").write_text("item_id:token\ttitle:token\tclass:token_seq\n" + "".join(lines), "utf-8",
                                       errors="replace")
    path = folder / "named.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "data_path": str(folder)}))

    def wrote() -> None:
        config = config_of(path, model, name="named", precision="fp32", gpu_id="", num_beams=5)
        data = Data.load(config)
        asked = config.model_class(config, data.parts[0]).eval()
        asked.recommend(data.parts[2].inter_feat[torch.arange(2)], 3)

    return refusal("texts of models", wrote)


# ------------------------------------------------------------------------------------------------------- converters

SEQUENCES = {"sequences": "u a b c\nv b c d a\nw d a b\n", "titles": "a\tAlpha\nb\tBeta\nc\tGamma\nd\tDelta\n",
             "timestamps": "u 1 2 3\nv 1 2 3 4\nw 5 6 7\n"}
AMAZON = {"reviews": "".join(f'{{"reviewerID": "u{n % 2}", "asin": "i{n}", "overall": 5.0, '
                             f'"unixReviewTime": 140000000{n}}}\n' for n in range(6)),
          "meta": "".join(f'{{"asin": "i{n}", "title": "T{n}", "categories": [["a", "b"]], "brand": "c"}}\n'
                              for n in range(6))}
YELP = {"reviews": "".join(f'{{"user_id": "u{n % 2}", "business_id": "b{n}", "stars": 4.0, '
                           f'"date": "2019-01-0{n + 1} 00:00:00"}}\n' for n in range(6)),
        "businesses": "".join(f'{{"business_id": "b{n}", "name": "N{n}", "categories": "a, b"}}\n' for n in range(6))}
MOVIELENS = {"ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,10\n1,2,3.5,11\n2,1,1.0,12\n2,2,5.0,13\n",
             "movies.csv": 'movieId,title,genres\n1,Toy Story (1995),Comedy|Drama\n2,"Heat, The (1995)",Drama\n',
             "ratings.dat": "1::1::4::10\n1::2::3::11\n2::1::1::12\n",
             "movies.dat": "1::Toy Story (1995)::Comedy\n2::H::D\n",
             "u.data": "1\t1\t4\t10\n1\t2\t3\t11\n2\t1\t1\t12\n",
             "u.item": f"1|Toy Story (1995)|01-Jan-1995||x|{'0|' * 18}1\n"}


def convert_written(name: str, folder: Path, files: dict[str, bytes], *arguments: str, codes=(0, 2)) -> None:
    for file, content in files.items():
        (folder / file).write_bytes(content)
    typed(name, convert, [*arguments, "--output=made", "--name=any", "--force"], codes)


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """Thousands of conversions need not survive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_sync", lambda path: None)
        yield


OPTIONS = st.lists(st.sampled_from(["--max-rejects=1", "--item_ids=shuffled", "--tie_order=hash",
                                    "--min-title-coverage=0"]),
                   max_size=3)


def files_of(examples: dict[str, str]):
    return st.fixed_dictionaries({name: mutated(text) for name, text in examples.items()})


@fuzz(15)
@given(files_of(SEQUENCES), OPTIONS)
def test_any_sequences(folder, files, options):
    convert_written("converter: sequences", folder, files, "sequences", *(f"--{name}={name}" for name in files),
                    *options)


@fuzz(15)
@given(files_of(AMAZON), OPTIONS)
def test_any_reviews_of_amazon(folder, files, options):
    convert_written("converter: amazon", folder, files, "amazon", *(f"--{name}={name}" for name in files), *options)


@fuzz(15)
@given(files_of(YELP), OPTIONS)
def test_any_reviews_of_yelp(folder, files, options):
    convert_written("converter: yelp", folder, files, "yelp", *(f"--{name}={name}" for name in files), *options)


@fuzz(15)
@given(st.sampled_from([("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item")]).flatmap(
    lambda names: files_of({name: MOVIELENS[name] for name in names})), OPTIONS)
def test_any_movielens(folder, files, options):
    target = folder / "movielens"
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    for name, content in files.items():
        (target / name).write_bytes(content)
    convert_written("converter: movielens", folder, {}, "movielens", "--input=movielens", *options)


# ------------------------------------------------------------------------------------------ what all that begins with

def test_the_examples_are_as_they_should_be(nothing_trained, folder):
    """Damage says little about a file that was none."""
    assert refusal("examples", lambda: load_written(folder, INTER.encode(), ITEM.encode())) is None
    for model in GENERATIVE:
        assert ask(folder, model, [f"The {item} story" for item in range(7)]) is None
    (folder / "mine.yaml").write_text("")
    run_with("examples", folder, "--model=GenRec,SASRec", codes=(0,))
    for source, files in (("sequences", SEQUENCES), ("amazon", AMAZON), ("yelp", YELP)):
        convert_written("examples", folder, {name: text.encode() for name, text in files.items()}, source,
                        *(f"--{name}={name}" for name in files), codes=(0,))
    for names in (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item")):
        ratings, movies = (folder / name for name in names)
        convert_written("examples", folder, {name: MOVIELENS[name].encode() for name in names}, "movielens",
                        f"--ratings={ratings}", f"--movies={movies}", codes=(0,))
