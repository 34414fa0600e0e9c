"""A stand-in for the W&B server on a local port: takes what the client uploads and keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server(ThreadingHTTPServer):
    """`streams` maps a run's name to the text of its history and summary, `files` holds the names of uploaded files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streams: dict[str, str] = {}
        self.files: list[str] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.refused: set[str] = set()  # display names of runs that the server does not take

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name == "UpsertBucket" and self.runs.get(given["name"], given).get("displayName") in self.refused:
            return {"errors": [{"message": "permission denied"}]}
        if name == "UpsertBucket":
            self.runs.setdefault(given["name"], given)
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": given["name"], "displayName": "d", "project": project, "historyLineCount": 0}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/{file}"} for file in given["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self.server.files.append(self.path)
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            query = json.loads(body)
            self._reply(self.server.answer(query["operationName"], query.get("variables") or {}))
            return
        if self.path.endswith("/file_stream"):
            run = self.path.split("/")[-2]
            self.server.streams[run] = self.server.streams.get(run, "") + body.decode()
        self._reply({})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
