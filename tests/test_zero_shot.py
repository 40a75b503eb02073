"""ZeroShotLLM end to end: a server that the test plays, a tiny local model, records, and nothing said of the key."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pandas as pd
import pytest
import torch
from data_helpers import NAME, config_of, load, per_user, random_interactions, records, write_dataset
from recbole.data.interaction import Interaction
from zero_shot_helpers import FakeServer, completion, save_llama

from recbole_genrec.benchmark import rank_metrics
from recbole_genrec.cli import main
from recbole_genrec.data.candidates import Candidates
from recbole_genrec.data.windows import CANDIDATES, TARGET_ROW

KEY = "sk-very-secret-0123456789"
INTERACTIONS = random_interactions(30, 30, 6, 10)
TITLES = {f"i{number}": f"The i{number} story" for number in range(30)}


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), INTERACTIONS, TITLES)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    words = [*TITLES.values(), "user assistant items of a user, the oldest first: Candidates Rank the most likely"]
    return save_llama(tmp_path_factory.mktemp("llama") / "model", words)


@pytest.fixture
def serve(monkeypatch):
    """A server for a reply; the key is in the environment, and no proxy is."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def serve(reply) -> FakeServer:
        servers.append(FakeServer(reply))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def run(yaml_file, tmp_path):
    """Run ZeroShotLLM by the command line; the exit code and the newest record."""
    def run(*arguments: str) -> tuple[int, dict | None]:
        code = main(["run", "--model=ZeroShotLLM", f"--dataset={NAME}", f"--config_files={yaml_file}", "--gpu_id=",
                     f"--output_dir={tmp_path / 'out'}", "--precision=fp32", *arguments])
        found = sorted(records(tmp_path / "out"), key=lambda record: record["timestamp"]) \
            if (tmp_path / "out").exists() else []
        return code, found[-1] if found else None
    return run


def last_and_history(user: str) -> tuple[str, list[str]]:
    own = [item for _, item in sorted((time, item) for name, item, time in INTERACTIONS if name == user)]
    return own[-1], own[:-1]


def listed(message: str) -> list[str]:
    """Titles of the candidates in a message, in its order."""
    return re.findall(r"^\[\d+\] (.*)$", message, re.MULTILINE)


def told(message: str) -> list[str]:
    """Titles of the history in a message."""
    return message.split("first:\n")[1].split("\nCandidates:")[0].splitlines()


ANSWERS = {tuple(TITLES[item] for item in last_and_history(f"u{number}")[1][-5:]): TITLES[last_and_history(
    f"u{number}")[0]] for number in range(30)}


def knows_all(_number: int, message: str):
    """Answers with the number of the item that comes next, and two others."""
    titles = listed(message)
    right = titles.index(ANSWERS[tuple(told(message))]) + 1
    return completion(", ".join(map(str, [right, *(n for n in (1, 2, 3) if n != right)])))


def test_a_model_that_knows_all_hits_always_and_the_record_says_what_it_cost(serve, run, tmp_path, capsys):
    server = serve(knows_all)
    code, record = run(f"--endpoint={server.url}", "--llm=oracle", "--mode=rank", "--candidates=10", "--topk=[1,10]",
                       "--valid_metric=NDCG@10", "--prompt_price=2.5", "--completion_price=10", "--concurrency=3")
    assert code == 0 and record["status"] == "ok" and record["hit@1"] == record["ndcg@10"] == 1
    assert (record["mode"], record["backbone"], record["candidates"]) == ("rank", "oracle", 10)
    assert len(server.requests) == record["requests"] == 30 and record["cached_requests"] == record["retries"] == 0
    assert (record["prompt_tokens"], record["completion_tokens"]) == (3000, 300)
    assert record["cost_usd"] == pytest.approx(3000 * 2.5e-6 + 300 * 10e-6)
    assert record["trainable_parameters"] == 0 and record["total_parameters"] is None
    assert 0.3 <= record["parse_rate"] <= 0.4 and record["unparsed_answers"] == 0  # three or four of ten
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("oracle", 0, 512)
    assert server.paths[0] == "/v1/chat/completions" and server.headers[0]["Authorization"] == f"Bearer {KEY}"
    header, row = (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()
    row = dict(zip(header.split(","), row.split(",")))
    assert (row["model"], row["candidates"], row["backbone"], row["status"]) == ("ZeroShotLLM", "10", "oracle", "ok")
    assert float(row["cost_usd"]) == pytest.approx(record["cost_usd"]) and row["total_parameters"] == ""
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 30 and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_prompt_lists_the_candidates_that_all_models_get_and_tells_the_newest_items(serve, run, yaml_file, tmp_path):
    server = serve(lambda *_: completion("1"))
    _, record = run(f"--endpoint={server.url}", "--llm=any", "--mode=rank", "--candidates=10", "--max_history_items=3")
    config, data = config_of(yaml_file, candidates=10), load(yaml_file)
    rows = data.parts[2].inter_feat[TARGET_ROW]
    titles = [TITLES.get(item, "") for item in data.dataset.field2id_token["item_id"]]
    expected = {tuple(titles[item] for item in row) for row in Candidates.of(data.dataset, config)(rows).tolist()}
    messages = [body["messages"][0]["content"] for body in server.requests]
    assert {tuple(listed(message)) for message in messages} == expected
    histories = {tuple(TITLES[item] for item in last_and_history(f"u{user}")[1][-3:]) for user in range(30)}
    assert {tuple(told(message)) for message in messages} == histories
    # "1" is the first of the list; what is not named follows in the list's order
    users = per_user(tmp_path / "out", record)
    order = {data.dataset.field2id_token["user_id"][data.dataset.sequences.user[row]]:
             [str(data.dataset.field2id_token["item_id"][item]) for item in items]
             for row, items in zip(rows.tolist(), Candidates.of(data.dataset, config)(rows).tolist())}
    for user, target, rank, best in zip(users["user"], users["target"], users["rank"], users["topk"]):
        assert list(best) == order[user] and rank == order[user].index(target) + 1


def test_a_second_run_sends_nothing_and_costs_nothing(serve, run):
    server = serve(knows_all)
    call = (f"--endpoint={server.url}", "--llm=oracle", "--mode=rank", "--candidates=10", "--prompt_price=1",
            "--completion_price=1")
    _, first = run(*call)
    _, second = run(*call, "--seed=7")
    assert len(server.requests) == 30 and second["run_id"] != first["run_id"]
    assert (second["requests"], second["cached_requests"], second["cost_usd"]) == (0, 30, 0)
    assert (second["prompt_tokens"], second["cached_prompt_tokens"]) == (0, 3000)
    assert second["ndcg@10"] == first["ndcg@10"] and second["candidates_fingerprint"] == first["candidates_fingerprint"]
    run(*call, "--request_options={seed: 1}")  # another request is another answer
    assert len(server.requests) == 60


def test_an_answer_that_says_nothing_is_no_ranking_and_the_record_says_so(serve, run):
    server = serve(lambda *_: completion("As a language model I cannot watch films."))
    code, record = run(f"--endpoint={server.url}", "--llm=any", "--mode=rank", "--candidates=10")
    assert code == 0 and record["parse_rate"] == 0 and record["unparsed_answers"] == 30


def test_written_titles_that_exist_are_ranked(serve, run, yaml_file, tmp_path):
    def write(_number: int, message: str):
        right = ANSWERS[tuple(message.split("first:\n")[1].split("\nName ")[0].splitlines())]
        return completion(f"1. A film that is none\n2. {right.upper()}\n3. {right}")

    server = serve(write)
    code, record = run(f"--endpoint={server.url}", "--llm=writer", "--mode=generate")
    assert code == 0 and record["hit@1"] == 1 and record["candidates"] is None
    assert (record["valid_rate"], record["duplicate_rate"]) == (pytest.approx(2 / 3), 0.5)
    assert record["titles_per_answer"] == 3
    users = per_user(tmp_path / "out", record)
    assert [list(row) for row in users["topk"]] == [[target] for target in users["target"]]


def test_a_refusal_fails_the_run_in_one_line_without_the_key(serve, run, tmp_path, capsys):
    server = serve(lambda *_: (401, {}, f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}'))
    code, record = run(f"--endpoint={server.url}", "--llm=any", "--mode=rank", "--candidates=10", "--concurrency=1")
    assert code == 1 and record["status"] == "failed" and "HTTP 401" in record["reason"] and "***" in record["reason"]
    assert len(server.requests) == 1
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err and "Traceback" not in shown.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


# ------------------------------------------------------------------------------------------------- local models


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something was to be sent")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("settings", [
    ["--mode=rank", "--candidates=10", "--max_answer_tokens=8"], ["--mode=score", "--candidates=10"], ["--mode=score"],
    ["--mode=generate", "--max_answer_tokens=8"]])
def test_a_local_model_sends_nothing_and_leaves_a_record(run, llama, no_network, tmp_path, settings):
    code, record = run(f"--llm={llama}", *settings)
    assert code == 0 and record["status"] == "ok" and record["trainable_parameters"] == 0 < record["total_parameters"]
    assert record["users"] == 30 and record["train_seconds"] == 0 and "cost_usd" not in record
    users = per_user(tmp_path / "out", record)
    expected = rank_metrics(pd.Series(users["rank"]), [1, 5, 10])
    assert {name: record[name] for name in expected} == pytest.approx(expected)
    if settings[0] != "--mode=generate":
        assert all(len(row) == 10 for row in users["topk"])


def test_a_score_is_the_log_likelihood_of_the_title_after_the_chat_template(yaml_file, llama):
    settings = dict(llm=str(llama), mode="score", norm="full", gpu_id="", precision="fp32", candidates=10)
    config, data = config_of(yaml_file, "ZeroShotLLM", **settings), load(yaml_file, **{"candidates": 10})
    model = config.model_class(config, data.parts[0]).eval()
    users = data.parts[2].inter_feat[torch.arange(3)].gather()
    candidates = Candidates.of(data.dataset, config)(users[TARGET_ROW])
    users.update(Interaction({CANDIDATES: candidates}))
    scores = model.full_sort_predict(users).view(3, -1)
    tokenizer, core = model.ranker.tokenizer, model.ranker.backbone.core
    for row in range(3):
        titles = [TITLES[data.dataset.field2id_token["item_id"][item]] for item in users["item_id_list"][row].tolist()
                  if item]
        message = model.ranker.wording.message(titles, 0)
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": message}], tokenize=False,
                                               add_generation_prompt=True)
        assert prompt.startswith("<s><|user|>\n") and prompt.endswith("<|assistant|>\n")
        item = int(candidates[row, 4])
        title = TITLES[data.dataset.field2id_token["item_id"][item]]
        head, tail = prompt.split(titles[0] + "\n")
        tail = tail.split("\n".join(titles[1:]) + "\n")[-1]
        begin = [piece for text in (head, *(title + "\n" for title in titles), tail)
                 for piece in tokenizer(text, add_special_tokens=False)["input_ids"]]
        answer = tokenizer.encode(title, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
        logits = core(torch.tensor([begin + answer])).logits[0].log_softmax(-1)
        places = torch.arange(len(begin) - 1, len(begin) + len(answer) - 1)
        assert float(scores[row, item]) == pytest.approx(float(logits[places, answer].sum()), abs=2e-3)


def test_a_long_history_is_shortened_to_what_the_model_takes(yaml_file, tmp_path):
    small = save_llama(tmp_path / "small", list(TITLES.values()), template=None, positions=400)
    config = config_of(yaml_file, "ZeroShotLLM", llm=str(small), mode="generate", gpu_id="", max_answer_tokens=8)
    ranker = config.model_class(config, load(yaml_file).parts[0]).ranker
    ranker.most_history = 10**6
    history = [1 + number % 30 for number in range(200)]
    question = ranker._question(history, [])
    titles = question.message.split("first:\n")[1].split("\nName ")[0].splitlines()
    expected = [ranker.catalogue.titles[item] for item in history]
    assert 0 < len(titles) < 200 and titles == expected[-len(titles):] and ranker.chat.fits(question.message)
    longer = ranker.wording.message(expected[-len(titles) - 1:], ranker.count)
    assert not ranker.chat.fits(longer) and len(ranker.chat.answers([question.message])) == 1


def test_a_prompt_that_never_fits_is_one_sentence(run, tmp_path, capsys):
    small = save_llama(tmp_path / "small", list(TITLES.values()), positions=64)
    code, record = run(f"--llm={small}", "--mode=rank", "--candidates=10", "--max_answer_tokens=8")
    error = capsys.readouterr().err
    assert code == 2 and record is None and "takes no prompt as long as" in error and "Traceback" not in error


# ----------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("arguments, said", [
    ([], "ZeroShotLLM needs a model"),
    (["--llm=x", "--mode=rank"], "set candidates, for example --candidates=100"),
    (["--llm=x", "--mode=generate", "--candidates=10"], "leave candidates out"),
    (["--llm=x", "--mode=score", "--endpoint=http://localhost:1/v1"], "needs the log-likelihoods of a local model"),
    (["--llm=x", "--mode=list"], "mode='list' is not one of rank, score, generate"),
    (["--llm=x", "--mode=generate", "--eval_args={mode: uni5}"], "set eval_args.mode to full"),
    (["--llm=x", "--mode=generate", "--endpoint=localhost:8000"], "endpoint must be the address"),
    (["--llm=x", "--mode=generate", "--endpoint=file:///etc/passwd"], "endpoint must be the address"),
    (["--llm=x", "--mode=generate", "--endpoint=http://me:hunter2@localhost/v1"], "must hold no user name, password"),
    (["--llm=x", "--mode=generate", "--endpoint=http://localhost/v1?key=hunter2"], "must hold no user name, password"),
    (["--llm=x", "--mode=generate", "--endpoint=http://localhost/v1", "--api_key_env=sk-hunter2"],
     "api_key_env must be the name of an environment variable that holds the key, not the key"),
    (["--llm=x", "--mode=generate", "--endpoint=http://localhost/v1", "--api_key_env=hunter2"],
     "the environment variable that api_key_env names is not set"),
    (["--llm=x", "--mode=generate", "--endpoint=http://localhost/v1", "--prompt_price=1"], "go together"),
    (["--llm=x", "--mode=generate", "--endpoint=http://localhost/v1", "--request_options={stream: true}"],
     "'stream' is not yours to set"),
    (["--llm=x", "--requests_per_minute=0"], "requests_per_minute=0 must be a whole number at least 1"),
    (["--llm=tiny-llama", "--item_index=shuffled_id"], "knows items by their titles only"),
    (["--llm=tiny-llama", "--prompt=next_item"], "prompt=next_item has no text 'score'"),
    (["--llm=tiny-t5"], "tiny-t5 is a seq2seq backbone"),
])
def test_a_mistake_is_one_sentence_before_anything_is_sent(run, no_network, tmp_path, capsys, arguments, said):
    code, record = run(*arguments)
    error = capsys.readouterr().err
    assert code == 2 and record is None and said in error and error.count("\n") == 1 and "hunter2" not in error
    assert not (tmp_path / "out").exists()


def test_a_key_that_no_header_takes_is_refused_unseen(run, monkeypatch, no_network, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    assert run("--llm=x", "--mode=generate", "--endpoint=http://localhost/v1")[0] == 2
    error = capsys.readouterr().err
    assert "has characters that no key has" in error and "sk-" not in error
