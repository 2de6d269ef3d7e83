"""A stand-in for a W&B server: standard library only, on the loopback, for the traffic of the real client.

It keeps what it is sent, and fails as it is told. Histories are kept as the client sends them, line by line, so that a
row that is sent twice shows.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "k" * 40


@dataclass
class Run:
    """What the server knows of a run; ``lines`` are those of its history, by number."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    finished: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        return [self.lines[number] for number in sorted(self.lines)]


@dataclass
class Request:
    """One request: everything that the client said of itself."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """The GraphQL operation, "file_stream" or "file"."""
        if self.path != "/graphql":
            return "file_stream" if self.path.endswith("/file_stream") else "file"
        found = re.search(r"(?:query|mutation)\s+(\w+)", json.loads(self.body)["query"])
        return found[1] if found else "?"


#: What a fault does with a request: None (nothing), a status with headers, or "hang" (never answers).
Answer = None | str | tuple[int, dict[str, str]]


class WandbServer:
    """``with WandbServer() as server: … server.environment …; server.runs``.

    Attributes:
      runs: by id.
      artifacts: name → files of its last version, name in the artifact → content.
      requests: all of them, in order.
      fault: decides what becomes of a request before it is served.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Answer] = lambda request: None
        self._versions: list[str] = []
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.stand_in = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on, and drop those that hang."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._http.shutdown()
            self._http.server_close()

    def by_job(self, job: str) -> list[Run]:
        return [run for run in self.runs.values() if run.fields.get("jobType") == job]

    def artifacts_like(self, part: str) -> dict[str, bytes]:
        """Files of the only artifact whose name contains this."""
        (files,) = [files for name, files in self.artifacts.items() if part in name]
        return files

    def answer(self, request: Request) -> tuple[int, dict[str, str], Any] | None:
        """Status, headers and body; None: the connection is dropped."""
        with self._lock:
            self.requests.append(request)
            fault = self.fault(request)
        if fault == "hang":
            self._stopped.wait()
            return None
        if isinstance(fault, tuple):
            return (*fault, {"error": "as told"})
        with self._lock:
            return (200, {}, self._serve(request))

    def _serve(self, request: Request) -> Any:
        if request.path == "/graphql":
            message = json.loads(request.body)
            handler = getattr(self, f"_{request.operation}", None)
            if handler is None:
                return {"errors": [{"message": f"the stand-in does not know {request.operation}"}]}
            return {"data": handler(message.get("variables") or {})}
        if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", request.path):
            return self._stream(self._run(found[1]), json.loads(request.body))
        if found := re.fullmatch(r"/run-files/([^/]+)/(.+)", request.path):
            self._run(found[1]).files[found[2]] = request.body
        elif found := re.fullmatch(r"/artifact-files/(\d+)/(.+)", request.path):
            self.artifacts[self._versions[int(found[1])]][found[2]] = request.body
        return {}

    def _run(self, identity: str) -> Run:
        return self.runs.setdefault(identity, Run(identity))

    def _stream(self, run: Run, message: dict[str, Any]) -> Any:
        for name, part in (message.get("files") or {}).items():
            for i, line in enumerate(part["content"]):
                if name == "wandb-history.jsonl":
                    run.lines[part["offset"] + i] = json.loads(line)
                elif name == "wandb-summary.json":
                    run.summary |= json.loads(line)
        run.finished |= bool(message.get("complete"))
        return {"exitcode": None, "limits": {}}

    # ------------------------------------------------------------------------------- GraphQL operations

    def _Viewer(self, _: dict[str, Any]) -> Any:
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _ServerInfo(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "features": []}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> Any:
        run = self.runs.get(variables["name"])
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": run and _status(run)}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> Any:
        new = variables["name"] not in self.runs
        run = self._run(variables["name"])
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        run.config |= {key: value["value"] for key, value in json.loads(variables.get("config") or "{}").items()}
        run.summary |= json.loads(variables.get("summaryMetrics") or "{}")
        entity = {"id": "e", "name": run.fields.get("entity") or "me"}
        project = {"id": "p", "name": run.fields.get("project") or "uncategorized", "entity": entity}
        bucket = {**_status(run), "description": "", "sweepName": None, "project": project}
        return {"upsertBucket": {"inserted": new, "bucket": bucket}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> Any:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/run-files/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> Any:
        inputs = variables.get("input") or variables
        name = inputs.get("artifactCollectionName") or inputs.get("artifactCollectionNames", ["?"])[0]
        self._versions.append(name)
        self.artifacts[name] = {}
        number = str(len(self._versions) - 1)
        sequence = {"id": "s", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> Any:
        return self._manifest("createArtifactManifest", variables, variables.get("artifactID"))

    def _UpdateArtifactManifest(self, variables: dict[str, Any]) -> Any:
        return self._manifest("updateArtifactManifest", variables, variables.get("artifactManifestID"))

    def _manifest(self, operation: str, variables: dict[str, Any], artifact: Any) -> Any:
        url = f"{self.url}/artifact-files/{artifact}/{variables.get('name', 'wandb_manifest.json')}"
        upload = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {operation: {"artifactManifest": {"id": artifact, "file": upload}}}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> Any:
        edges = []
        for i, file in enumerate(
            variables["input"]["artifactFiles"] if "input" in variables else variables["artifactFiles"]
        ):
            url = f"{self.url}/artifact-files/{file['artifactID']}/{file['name']}"
            node = {
                "id": str(i),
                "name": file["name"],
                "displayName": file["name"],
                "uploadUrl": url,
                "uploadHeaders": [],
            }
            edges.append(
                {
                    "node": {
                        **node,
                        "storagePath": url,
                        "uploadMultipartUrls": None,
                        "artifact": {"id": file["artifactID"]},
                    }
                }
            )
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, variables: dict[str, Any]) -> Any:
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    def _UseArtifact(self, variables: dict[str, Any]) -> Any:
        return {
            "useArtifact": {
                "artifact": {
                    "id": variables["artifactID"],
                    "digest": "d",
                    "description": "",
                    "state": "COMMITTED",
                    "createdAt": "",
                    "metadata": "{}",
                }
            }
        }


def _status(run: Run) -> dict[str, Any]:
    """A run as the server describes it."""
    tail = [json.dumps(run.history[-1])] if run.lines else []
    return {
        "id": run.id,
        "name": run.id,
        "displayName": run.fields.get("displayName") or run.id,
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "wandbConfig": json.dumps({"t": 1}),
        "summaryMetrics": json.dumps(run.summary),
        "tags": run.fields.get("tags") or [],
        "historyLineCount": len(run.lines),
        "historyTail": json.dumps(tail),
        "eventsLineCount": 0,
        "eventsTail": "[]",
        "logLineCount": 0,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    stand_in: WandbServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients reset connections when they end."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer = self.server.stand_in.answer(Request(self.command, self.path, dict(self.headers.items()), body))
        if answer is None:
            self.close_connection = True
            return
        status, headers, content = answer
        reply = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(reply))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_POST = do_PUT = do_PATCH = _handle
