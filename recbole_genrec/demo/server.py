"""The demo's server: one static page and three JSON endpoints, on the standard library, for this machine only.

Gradio would add 18 packages to this project's own and streamlit 9, each with bounds that must go with RecBole's, for
one form and two lists. Here there is nothing to install, and nothing is loaded from elsewhere: the page's policy
forbids it.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from recbole_genrec.errors import UserError
from recbole_genrec.recommend import Recommender

log = logging.getLogger("recbole_genrec")
#: The longest list that is asked for.
MOST = 100
_POLICY = ("default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
           "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def make_server(recommenders: list[Recommender], port: int) -> ThreadingHTTPServer:
    """A server of the page on 127.0.0.1; ``serve_forever`` starts it.

    Args:
        recommenders: one for each list, all of one data set.
        port: 0 for any free one.
    Raises:
        UserError: runs on different data, or the port is taken.
    """
    first = recommenders[0].record
    for other in recommenders[1:]:
        if other.record["dataset_fingerprint"] != first["dataset_fingerprint"]:
            raise UserError(f"runs '{first['run_id']}' and '{other.record['run_id']}' are of different data: nothing "
                            "can be put into both")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    except OSError as error:
        raise UserError(f"port {port} of 127.0.0.1 cannot be had: {error.strerror}; give another --port") from None
    server.daemon_threads = True
    server.app = _App(recommenders)
    return server


class _App:
    """What the endpoints answer. Models take one request at a time."""

    def __init__(self, recommenders: list[Recommender]):
        self.recommenders, self.lock = recommenders, threading.Lock()

    def runs(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Which models there are."""
        first = self.recommenders[0]
        return {"dataset": first.record["dataset"], "items": len(first.titles.number),
                "runs": [self._about(one) for one in self.recommenders]}

    def titles(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Titles that ``q`` may become, the likeliest first."""
        return {"titles": [asdict(match) for match in self.recommenders[0].titles.suggest(query.get("q", [""])[0])]}

    def recommend(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Each model's list after the ``title``s (``id:...`` too), and, where asked, what became of ``why``."""
        history, text = query.get("title", []), query.get("k", ["10"])[0]
        if not text.isdecimal() or not 1 <= int(text) <= MOST:
            raise UserError(f"k={text[:20]} must be a whole number from 1 to {MOST}")
        first = self.recommenders[0]
        with self.lock:
            found = [first.find(title).the_one() for title in history]
            items, lists = [f"id:{match.item}" for match in found], []
            for one in self.recommenders:
                why = one.why_not(items, query["why"][0], int(text)) if query.get("why") else None
                lists.append({**self._about(one), "why_not": None if why is None else asdict(why),
                              "items": [asdict(place) for place in one.recommend([items], int(text))[0]]})
        return {"history": [{"item": match.item, "title": match.title} for match in found], "lists": lists}

    @staticmethod
    def _about(one: Recommender) -> dict[str, Any]:
        return {"run": one.record["run_id"], "model": one.record["model"], "probabilities": one.has_probabilities}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        address = urlsplit(self.path)
        # A name of somebody else's that resolves to this machine (DNS rebinding) is not served.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
            return self._send(403, "text/plain", b"this page is for 127.0.0.1 only\n")
        if address.path == "/":
            return self._send(200, "text/html", files(__package__).joinpath("page.html").read_bytes())
        endpoint = {"/api/runs": "runs", "/api/titles": "titles", "/api/recommend": "recommend"}.get(address.path)
        if endpoint is None:
            return self._json(404, {"error": "no such page"})
        try:
            self._json(200, getattr(self.server.app, endpoint)(parse_qs(address.query)))
        except UserError as error:
            self._json(400, {"error": str(error)})
        except Exception as error:  # the page says so, and the server goes on
            log.exception("demo: %s failed", endpoint)
            self._json(500, {"error": f"{type(error).__name__}: {error}"})

    def _json(self, status: int, answer: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(answer, allow_nan=False).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))),
                            ("Content-Security-Policy", _POLICY), ("X-Content-Type-Options", "nosniff"),
                            ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Requests are not printed."""
