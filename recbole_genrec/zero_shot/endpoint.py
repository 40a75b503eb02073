"""A chat model behind an OpenAI-compatible endpoint: retries, and what it cost.

By the standard library: one POST of JSON is all that is needed, and ``requests`` or ``httpx`` would only be here by the
grace of other packages. Nothing is ever sent but to the ``endpoint`` that the user set; a redirect is not followed,
since the key would go with it.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recbole_genrec.errors import UserError
from recbole_genrec.zero_shot.cache import AnswerCache
from recbole_genrec.zero_shot.pace import Pace

#: Answers that may be others the next time.
_RETRIED = {408, 409, 425, 429}
_DEFAULT_KEY = "OPENAI_API_KEY"
#: Seconds before the first retry, doubled at each, and seconds that are waited at most.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 600.0

log = logging.getLogger("recbole_genrec")


class EndpointError(Exception):
    """The endpoint gave no answer; the message never holds the key."""


class _Again(Exception):
    """A request that may succeed another time, and how long the server asks to wait (seconds, or None)."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@dataclass
class Bill:
    """What answers cost.

    Attributes:
        requests: sent and answered.
        cached_requests: answered from the cache.
        retries: attempts that had to be made again.
        prompt_tokens, completion_tokens: of what was sent, as the server counts.
        cached_prompt_tokens, cached_completion_tokens: of what the cache answered, as the server counted then.
        uncounted: answers without a count of tokens.
    """

    requests: int = 0
    cached_requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0
    uncounted: int = 0


def check_endpoint(config) -> None:
    """Refuse what can be seen to be wrong before anything is sent.

    Raises:
        UserError: an address that is none, or a key that cannot be one. The key itself is not in the message.
    """
    url = config["endpoint"]
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", url):
        raise UserError("endpoint must be the address of an OpenAI-compatible server, for example "
                        "http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError("endpoint must hold no user name, password, '?' or '#': it is written into the record, and a "
                        "key belongs in the environment variable that api_key_env names")
    if reserved := {"model", "messages", "stream"} & set(config["request_options"] or {}):
        raise UserError(f"request_options: '{sorted(reserved)[0]}' is not yours to set")
    if (config["prompt_price"] is None) != (config["completion_price"] is None):
        raise UserError("prompt_price and completion_price go together")
    read_key(config["api_key_env"])


def read_key(variable: str) -> str | None:
    """The key in an environment variable; None if the default one is not set.

    Raises:
        UserError: the name is none (a key, perhaps: it is not repeated), it is not set, or its value is no key.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise UserError("api_key_env must be the name of an environment variable that holds the key, not the key")
    key = os.environ.get(variable, "").strip()
    if not key:
        if variable == _DEFAULT_KEY:
            return None
        raise UserError("the environment variable that api_key_env names is not set")
    if not re.fullmatch(r"[!-~]+", key):  # a header takes no other characters, and would say so with the key
        raise UserError("the key in the environment variable that api_key_env names has characters that no key has")
    return key


class Endpoint:
    """Answers prompts, each in a conversation of its own.

    Args:
        url: up to and with ``/v1``.
        model: the server's name for it.
        cache: folder of an :class:`AnswerCache`.
        options: of every request, over ``temperature: 0`` and ``max_tokens``; None takes one out.
        key: sent as bearer token; in no file, log or message.
        pace: when requests may go.
        timeout: seconds without a byte after which an attempt is given up.
        retries: attempts after the first.
        concurrency: requests at a time.
        prices: USD for a million tokens of prompts and of completions.
    """

    def __init__(self, url: str, model: str, cache: Path, options: dict[str, Any] | None = None, key: str | None = None,
                 pace: Pace | None = None, timeout: float = 60, retries: int = 5, concurrency: int = 4,
                 prices: tuple[float, float] | None = None):
        self.url, self.model, self.cache = url.rstrip("/"), model, AnswerCache(cache)
        self.options = {name: value for name, value in (options or {}).items() if value is not None}
        self._key, self.pace = key, pace or Pace(None)
        self.timeout, self.retries, self.concurrency, self.prices = timeout, retries, concurrency, prices
        self.bill, self._lock, self._failure = Bill(), threading.Lock(), None
        self._opener = urllib.request.build_opener(_NoRedirect)

    @classmethod
    def of(cls, config) -> "Endpoint":
        """As the configuration says."""
        folder = config["llm_cache"] or Path(config["output_dir"]) / "llm_cache"
        prices = (config["prompt_price"], config["completion_price"])
        return cls(config["endpoint"], config["llm"], Path(folder).expanduser(),
                   {"temperature": 0, "max_tokens": config["max_answer_tokens"], **(config["request_options"] or {})},
                   read_key(config["api_key_env"]), Pace(config["requests_per_minute"]), config["request_timeout"],
                   config["request_retries"], config["concurrency"], None if None in prices else prices)

    def fits(self, prompt: str) -> bool:
        """Whether a prompt is short enough; only the server knows."""
        return True

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """The answer to each prompt; equal ones are sent once.

        Raises:
            EndpointError: one of them got none. Those that came are in the cache.
        """
        distinct = list(dict.fromkeys(prompts))
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                found = dict(zip(distinct, pool.map(self._answer_or_stop, distinct)))
            except BaseException as error:
                self.pace.stop()
                pool.shutdown(cancel_futures=True)
                failed = isinstance(error, Exception) and self._failure  # an interruption stays one
                raise (failed or error) from None
        return [found[prompt] for prompt in prompts]

    def describe(self) -> dict[str, Any]:
        """For the record: the server, what was asked of it and what it cost (``cost_usd``: None without prices)."""
        bill, cost = self.bill, None
        if self.prices and not bill.uncounted:
            cost = (bill.prompt_tokens * self.prices[0] + bill.completion_tokens * self.prices[1]) / 1e6
        return {"endpoint": self.url, **vars(bill), "cost_usd": cost, "total_parameters": None}

    # ------------------------------------------------------------------------------------------- one request

    def _answer_or_stop(self, prompt: str) -> str:
        """The answer; with the first failure all others stop, as none of them is of use any more."""
        try:
            return self._answer(prompt)
        except Exception as error:
            with self._lock:
                self._failure = self._failure or error
            self.pace.stop()
            raise

    def _answer(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **self.options}
        sent = {"url": f"{self.url}/chat/completions", "body": body}
        answer = self.cache.get(sent)
        cached = answer is not None
        if not cached:
            answer = self._send(sent["url"], json.dumps(body).encode())
            self.cache.put(sent, answer)
        with self._lock:
            self._add(answer, cached)
        return answer["text"]

    def _add(self, answer: dict[str, Any], cached: bool) -> None:
        bill, tokens = self.bill, (answer["prompt_tokens"], answer["completion_tokens"])
        if cached:
            bill.cached_requests += 1
            bill.cached_prompt_tokens += tokens[0] or 0
            bill.cached_completion_tokens += tokens[1] or 0
        else:
            bill.requests += 1
            bill.uncounted += None in tokens
            bill.prompt_tokens += tokens[0] or 0
            bill.completion_tokens += tokens[1] or 0

    def _send(self, url: str, data: bytes) -> dict[str, Any]:
        """Try until there is an answer, each time after twice the wait, or after what the server asks for."""
        for attempt in range(self.retries + 1):
            self.pace.wait()
            if self.pace.stopped:
                raise EndpointError("stopped")
            try:
                return self._post(url, data)
            except _Again as error:
                if attempt == self.retries:
                    raise EndpointError(f"{self.url} gave no answer in {attempt + 1} attempts: {error}") from None
                if (error.wait or 0) > _LONGEST_WAIT:
                    raise EndpointError(f"{self.url} asks to wait {error.wait:.0f} seconds: {error}") from None
                log.debug("%s: %s; again", self.url, error)
                with self._lock:
                    self.bill.retries += 1
                wait = max(error.wait or 0, min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT))
                if error.wait is not None:
                    self.pace.pause(wait)  # the server is busy for all threads
                else:
                    self.pace.sleep(wait)

    def _post(self, url: str, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "recbole-genrec"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            with self._opener.open(urllib.request.Request(url, data, headers), timeout=self.timeout) as response:
                text = self._clean(response.read())
        except urllib.error.HTTPError as error:
            message = f"HTTP {error.code}: {self._reason(error)}"
            if (error.code in _RETRIED or error.code >= 500) and "insufficient_quota" not in message:
                raise _Again(message, retry_after(error.headers.get("Retry-After"))) from None
            raise EndpointError(f"{self.url} refuses: {message}") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Again(self._clean(f"{type(error).__name__}: {error}".encode())) from None
        try:
            reply = json.loads(text)
            choice = reply["choices"][0]
            content, usage = choice["message"].get("content"), reply.get("usage") or {}
            if not isinstance(content, (str, type(None))):
                raise TypeError
            return {"text": content or "", "finish_reason": choice.get("finish_reason"),
                    **{name: usage[name] if type(usage.get(name)) is int else None
                       for name in ("prompt_tokens", "completion_tokens")}}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _Again(f"the answer is no chat completion: {text[:100]!r}") from None

    def _reason(self, error: urllib.error.HTTPError) -> str:
        try:
            return " ".join(self._clean(error.read()).split())[:300]
        except (OSError, http.client.HTTPException):
            return str(error.reason)

    def _clean(self, raw: bytes) -> str:
        """Text of the server's, the key taken out: some repeat it."""
        text = raw.decode("utf-8", errors="replace")
        return text.replace(self._key, "***") if self._key and len(self._key) > 7 else text  # "none" is no secret


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110: a number, or a date); None if it says nothing."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError):
        return None
