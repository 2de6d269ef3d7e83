"""A stand-in for the part of a W&B server that is asked by name: GraphQL operations, on the loopback interface only."""

import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}


class GraphQLServer(ThreadingHTTPServer):
    """Answers operations by ``answer(operation, variables)``, that of who asks itself.

    Attributes:
      refuse: an HTTP status to give instead of answers.
      operations: names of what was asked, in order.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[str, dict], Any], refuse: int | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.refuse, self.operations = answer, refuse, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GraphQLServer

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])[1]
        self.server.operations.append(operation)
        text = b"{}"
        if self.server.refuse is None:
            asks_who = operation in ("Viewer", "GetDefaultEntity")
            data = {"viewer": USER} if asks_who else self.server.answer(operation, body.get("variables") or {})
            text = json.dumps({"data": data}).encode()
        self.send_response(self.server.refuse or 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serving(answer, refuse=None):
    """A GraphQLServer that runs."""
    with GraphQLServer(answer, refuse) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
