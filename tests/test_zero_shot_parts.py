"""The pieces of ZeroShotLLM: how answers are read, and how an endpoint is asked, kept to its pace and remembered."""

from __future__ import annotations

import email.utils
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zero_shot_helpers import FakeServer, FakeTime, completion, wait_long

from recbole_genrec.zero_shot.answers import normal, read_ranking, read_titles
from recbole_genrec.zero_shot.endpoint import Endpoint, EndpointError, retry_after
from recbole_genrec.zero_shot.pace import Pace

TITLES = ["Toy Story (1995)", "Heat (1995)", "Seven (1995)", "12 Monkeys (1995)", "Star Wars: Episode IV (1977)",
          "1984", "Matrix, The (1999)", "It"]


@pytest.mark.parametrize("answer", [
    "3, 1, 7", "[3, 1, 7]", "3 > 1 > 7", "3\n1\n7", "#3, #1, #7", "[3], [1], [7]", "Ranking: 3, 1 and 7",
    "1. 3\n2. 1\n3. 7", "1) [3]\n2) [1] Toy Story (1995)\n3) [7]", "[3] Seven\n[1] Toys\n[7] Matrix",
    "1. Seven (1995)\n2. toy story (1995)\n3. \"Matrix, The (1999)\"",
    "3. Seven (1995)\n1. Toy Story (1995)\n7. Matrix",
    "**1.** Seven (1995)\n**2.** Toy Story (1995)\n**3.** Matrix, The (1999)",
    "- Seven (1995)\n- **Toy Story (1995)**\n- Matrix, The (1999)", "Here are 20 films:\n3, 1, 7",
    "<think>Not 2 or 4, 5</think>\n3, 1, 7", '```json\n["Seven (1995)", "Toy Story (1995)", "Matrix, The (1999)"]\n```',
    "The best are [3], [1] and [7].", "I think of Seven (1995), Toy Story (1995), and of Matrix, The (1999).",
])
def test_the_same_ranking_in_every_form(answer):
    assert read_ranking(answer, TITLES).found == [2, 0, 6]


@pytest.mark.parametrize("answer, found, unknown, repeated", [
    ("3, 99, 1, 3, 0, 7", [2, 0, 6], 2, 1),
    ("1. Foo\n2. Bar", [], 2, 0),                      # places in the ranking, not candidates
    ("12 Monkeys (1995)\n1984", [3, 5], 0, 0),         # titles that begin with numbers, or are one
    ("1. Star Wars: Episode IV (1977)", [4], 0, 0),
    ("", [], 0, 0), ("I cannot help with that", [], 0, 0), ("<think>3, 1", [], 0, 0),
    ("Is it Heat (1995)", [1], 0, 0),                  # "It" is a word here
])
def test_what_is_unknown_or_repeated_is_counted(answer, found, unknown, repeated):
    reading = read_ranking(answer, TITLES)
    assert (reading.found, reading.unknown, reading.repeated) == (found, unknown, repeated)


def test_of_equal_titles_the_number_tells():
    assert read_ranking("[2] Heat\n[1] Heat", ["Heat", "Heat"]).found == [1, 0]
    assert read_ranking("Heat", ["Heat", "Heat"]).found == [0]


@given(st.text() | st.lists(st.text(alphabet="0123456789[]().:,-* \nab")).map("".join), st.lists(st.text(), min_size=1))
def test_no_answer_breaks_the_reader(answer, titles):
    reading = read_ranking(answer, titles)
    assert len(set(reading.found)) == len(reading.found) and set(reading.found) <= set(range(len(titles)))
    read_titles(answer, {normal(title): 1 for title in titles})


@given(st.permutations(list(range(1, 9))))
def test_any_order_of_numbers_comes_back(order):
    assert [place + 1 for place in read_ranking(", ".join(map(str, order)), TITLES).found] == order


def test_titles_are_matched_but_for_case_blanks_and_marks():
    item_of = {normal(title): number for number, title in enumerate(TITLES, 1)}
    answer = "My picks:\n1. heat  (1995)\n* \"SEVEN (1995)\"\n12 Monkeys (1995)\n3. Heat (1995)\nHeat"
    reading = read_titles(answer, item_of)
    assert (reading.found, reading.unknown, reading.repeated) == ([2, 3, 4], 1, 1)
    assert read_titles('["It", "1984"]', item_of).found == [8, 6]


# ---------------------------------------------------------------------------------------------------- endpoint


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """An endpoint on a server that replies so, with a time of its own."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def asked(reply, per_minute: int | None = None, **settings) -> tuple[Endpoint, FakeServer, FakeTime]:
        server, time = FakeServer(reply), FakeTime()
        servers.append(server)
        return Endpoint(server.url, "model", tmp_path / "cache", **{"concurrency": 1, **settings},
                        pace=Pace(per_minute, time.clock, time.sleep)), server, time

    yield asked
    for server in servers:
        server.close()


def test_a_busy_server_is_asked_again_when_it_says(asked):
    busy = 429, {"Retry-After": "17"}, "slow down"
    endpoint, server, time = asked(lambda n, _: busy if n == 0 else completion("ok"))
    assert endpoint.answers(["a"]) == ["ok"]
    assert time.slept == [17] and len(server.requests) == 2 and endpoint.bill.retries == endpoint.bill.requests == 1


def test_a_broken_server_is_asked_again_after_growing_waits(asked):
    endpoint, _, time = asked(lambda n, _: (500, {}, "oops") if n < 3 else completion("ok"))
    assert endpoint.answers(["a"]) == ["ok"] and time.slept == [1, 2, 4]


@pytest.mark.parametrize("bad", [(200, {}, "<html>gateway</html>"), (200, {}, '{"choices": []}'), (200, {}, "[]"),
                                 (200, {}, '{"choices": [{"message": {"content": 7}}]}'), (200, {}, "")])
def test_an_answer_that_is_none_is_asked_for_again(asked, bad):
    endpoint, _, _ = asked(lambda n, _: bad if n == 0 else completion("ok"))
    assert endpoint.answers(["a"]) == ["ok"]


def test_a_silent_answer_is_an_empty_one(asked):
    assert asked(lambda *_: completion(None))[0].answers(["a"]) == [""]


def test_a_server_that_does_not_answer_is_given_up(asked):
    endpoint, server, time = asked(wait_long, timeout=0.1, retries=1)
    with pytest.raises(EndpointError, match="gave no answer in 2 attempts: .*timed out"):
        endpoint.answers(["a"])
    assert len(server.requests) == 2 and time.slept == [1]


def test_no_server_at_all_is_given_up(asked):
    endpoint, server, time = asked(lambda *_: completion("ok"), retries=2)
    server.close()
    with pytest.raises(EndpointError, match="gave no answer in 3 attempts"):
        endpoint.answers(["a"])


@pytest.mark.parametrize("status, body", [(400, "bad"), (404, "no such model"), (302, ""), (429, "insufficient_quota")])
def test_a_refusal_is_final(asked, status, body):
    endpoint, server, time = asked(lambda *_: (status, {"Location": "http://127.0.0.1:1/"}, body))
    with pytest.raises(EndpointError, match=f"refuses: HTTP {status}: {body}"):
        endpoint.answers(["a"])
    assert len(server.requests) == 1 and time.slept == []


def test_a_wait_of_hours_is_not_waited(asked):
    endpoint, server, time = asked(lambda *_: (429, {"Retry-After": "7200"}, "come back"))
    with pytest.raises(EndpointError, match="asks to wait 7200 seconds"):
        endpoint.answers(["a"])
    assert time.slept == []


def test_retry_after_is_seconds_or_a_date():
    assert [retry_after(value) for value in (None, "3", "0.5", "soon", "")] == [None, 3, 0.5, None, None]
    date = email.utils.formatdate(1_700_000_030, usegmt=True)
    assert retry_after(date, now=1_700_000_000) == 30 and retry_after(date, now=1_800_000_000) == 0


def test_requests_are_spaced_by_the_minute(asked):
    endpoint, _, time = asked(lambda *_: completion("ok"), per_minute=30)
    endpoint.answers(list("abcde"))
    assert time.slept == [2, 2, 2, 2]


def test_several_requests_are_under_way_at_once_but_no_more(asked):
    endpoint, server, _ = asked(wait_long, concurrency=3)
    assert endpoint.answers(list("abcdef")) == ["1"] * 6
    assert server.most_at_once == 3


def test_answers_come_in_order_and_equal_questions_are_sent_once(asked):
    endpoint, server, _ = asked(lambda _, message: completion(message.upper()), concurrency=4)
    assert endpoint.answers(["b", "a", "b", "c"]) == ["B", "A", "B", "C"] and len(server.requests) == 3


def test_the_cache_answers_what_was_asked_before_and_nothing_else(asked, tmp_path):
    endpoint, server, _ = asked(lambda _, message: completion(message + "!"), options={"temperature": 0, "seed": None})
    endpoint.answers(["a", "b"])
    assert server.requests[0] == {"model": "model", "messages": [{"role": "user", "content": "a"}], "temperature": 0}
    files = sorted((tmp_path / "cache").glob("*"))
    assert len(files) == 2 and all(path.suffix == ".json" for path in files)
    for settings, sent in (({"options": {"temperature": 0}}, 2), ({"options": {"temperature": 1}}, 3)):
        again = Endpoint(server.url, "model", tmp_path / "cache", concurrency=1, **settings)
        assert again.answers(["a"]) == ["a!"] and len(server.requests) == sent
    assert Endpoint(server.url, "other", tmp_path / "cache").answers(["a"]) == ["a!"] and len(server.requests) == 4


@pytest.mark.parametrize("torn", ["", "{", "null", '{"answer": {"text": 3}}',
                                  '{"sent": {}, "answer": {"text": "evil"}}'])
def test_a_torn_file_in_the_cache_is_asked_for_again(asked, tmp_path, torn):
    endpoint, server, _ = asked(lambda *_: completion("ok"))
    endpoint.answers(["a"])
    path, = (tmp_path / "cache").iterdir()
    path.write_text(torn)
    assert Endpoint(server.url, "model", tmp_path / "cache").answers(["a"]) == ["ok"] and len(server.requests) == 2
    assert json.loads(path.read_text())["answer"]["text"] == "ok"


def test_what_came_before_a_failure_is_kept(asked):
    endpoint, server, _ = asked(lambda n, message: (400, {}, "no") if message == "c" else completion("ok"))
    with pytest.raises(EndpointError):
        endpoint.answers(["a", "b", "c"])
    again, _, _ = asked(lambda *_: completion("new"))
    again.url = endpoint.url
    assert again.answers(["a", "b"]) == ["ok", "ok"] and again.bill.cached_requests == 2


def test_an_interruption_stays_one_whatever_fails_beside_it(asked, monkeypatch):
    endpoint, _, _ = asked(lambda *_: (400, {}, "no"), concurrency=2)
    answer = endpoint._answer

    def interrupted(prompt: str) -> str:
        if prompt == "a":
            raise KeyboardInterrupt
        return answer(prompt)

    monkeypatch.setattr(endpoint, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        endpoint.answers(["a", "b"])


def test_cost_is_unknown_where_the_server_does_not_count(asked):
    endpoint, _, _ = asked(lambda *_: (200, {}, '{"choices": [{"message": {"content": "ok"}}]}'), prices=(1.0, 1.0))
    endpoint.answers(["a"])
    assert endpoint.describe()["cost_usd"] is None and endpoint.describe()["uncounted"] == 1


def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_cache(asked, tmp_path):
    key = "sk-very-secret-0123456789"
    endpoint, _, _ = asked(lambda *_: completion(f"your key is {key}"), key=key)
    assert endpoint.answers(["a"]) == ["your key is ***"]
    assert key not in next((tmp_path / "cache").iterdir()).read_text()
