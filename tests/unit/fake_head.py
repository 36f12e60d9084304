"""The head of a cluster as its Jobs server shows it, without a Ray behind it."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ray

TOKEN = "c4nary" * 8


@dataclass
class FakeHead:
    """What it was sent, and the jobs that it has.

    Args:
        token: that it asks for; None for an open cluster.
        agents_missing: how many submissions it cannot take yet.
    """

    token: str | None = TOKEN
    port: int = 0
    agents_missing: int = 0
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sent(self, method: str, path: str = "/api/") -> list[bytes]:
        """Bodies of the requests of a kind."""
        return [body for verb, at, _, body in self.requests if verb == method and path in at]

    @property
    def has_got_anything(self) -> bool:
        """Whether anything but a look was sent."""
        return any(verb != "GET" for verb, *_ in self.requests)

    def package(self) -> dict[str, bytes]:
        """The files of the last package."""
        with zipfile.ZipFile(io.BytesIO(self.sent("PUT", "/packages/")[-1])) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            return {name: archive.read(name) for name in names}

    def end(self, job: str, status: str, **changed: Any) -> None:
        """Let a job end."""
        self.jobs[job] |= {"status": status, "end_time": 1_700_000_060_000, **changed}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The status and what is answered."""
        parts = path.strip("/").split("/")[1:]
        if parts == ["version"]:
            return 200, {"version": "4", "ray_version": ray.__version__, "ray_commit": "-"}
        if parts[0] == "packages":
            return (404, "no") if method == "GET" else (200, {})
        if parts == ["jobs"]:
            return (
                self._create(json.loads(body)) if method == "POST" else (200, [*self.jobs.values()])
            )
        job = self.jobs.get(parts[1])
        if job is None:
            return 404, f"Job {parts[1]} does not exist"
        if parts[2:] == ["logs"]:
            return 200, {"logs": self.logs.get(parts[1], "")}
        if parts[2:] == ["stop"]:
            self.end(parts[1], "STOPPED")
            return 200, {"stopped": True}
        return 200, job

    def _create(self, request: dict[str, Any]) -> tuple[int, Any]:
        job = request["submission_id"]
        if self.agents_missing:
            self.agents_missing -= 1
            return 500, "No available agent to submit job, please try again later."
        if job in self.jobs:
            return 400, f"ValueError: Job with submission_id {job} already exists."
        self.jobs[job] = {
            "type": "SUBMISSION",
            "submission_id": job,
            "status": "RUNNING",
            "start_time": 1_700_000_000_000,
            "entrypoint": request["entrypoint"],
            "metadata": request["metadata"],
            "runtime_env": request["runtime_env"],
        }
        return 200, {"submission_id": job, "job_id": job}


@contextmanager
def fake_head(token: str | None = TOKEN) -> Iterator[FakeHead]:
    head = FakeHead(token)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            head.requests.append((self.command, self.path, dict(self.headers), body))
            given = self.headers.get("Authorization")
            if head.token is not None and given is None:
                self._reply(401, "Unauthorized: Missing authentication token")
            elif head.token is not None and given != f"Bearer {head.token}":
                self._reply(403, "Forbidden: Invalid authentication token")
            else:
                self._reply(*head.answer(self.command, self.path, body))

        do_GET = do_POST = do_PUT = _handle

        def _reply(self, status: int, content: Any) -> None:
            text = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    head.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield head
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
