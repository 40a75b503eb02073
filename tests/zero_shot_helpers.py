"""A server that speaks as much of OpenAI's protocol as is asked of it, as the test says; and a tiny chat model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recbole_genrec.backbone.tokenizer import train_tokenizer

#: What a test lets the server do with a request: (status, headers, body).
Reply = tuple[int, dict[str, str], str]


def completion(text: str | None, prompt_tokens: int = 100, completion_tokens: int = 10) -> Reply:
    """A proper answer."""
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}}
    return 200, {}, json.dumps(body)


class FakeServer:
    """Answers on a port of its own; what it does with the n-th request (from 0) is ``reply(n, message)``.

    Attributes:
        requests: the bodies that came; ``headers`` and ``paths`` with them.
        most_at_once: requests that were in its hands at the same time.
    """

    def __init__(self, reply: Callable[[int, str], Reply]):
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = self._now = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(server.requests)
                    server.requests.append(body)
                    server.headers.append(dict(self.headers))
                    server.paths.append(self.path)
                    server._now += 1
                    server.most_at_once = max(server.most_at_once, server._now)
                try:
                    status, headers, text = reply(number, body["messages"][0]["content"])
                finally:
                    with lock:
                        server._now -= 1
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:  # the client has given up
                    pass

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def wait_long(_number: int, _message: str) -> Reply:
    """A reply that comes too late."""
    time.sleep(0.5)
    return completion("1")


#: A chat template in the manner of ChatML.
TEMPLATE = ("{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")


def save_llama(folder: Path, texts: list[str], template: str | None = TEMPLATE, positions: int = 2048) -> Path:
    """A random LLaMA with a tokenizer trained on these texts, as a folder that ``llm:`` takes."""
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=positions, initializer_range=0.3, pad_token_id=0, bos_token_id=1,
        eos_token_id=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
