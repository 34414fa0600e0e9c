"""The page on localhost: it follows the records while it is looked at, and answers to its own name only."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from parediff.errors import RequestError
from parediff.report import page
from parediff.report.dashboard import content, pictures
from parediff.report.dashboard.collection import Collection
from parediff.report.dashboard.content import View
from parediff.report.dashboard.write import title_of
from parediff.results.progress import studies

HOST = "127.0.0.1"
OWN_NAMES = (HOST, "localhost", "[::1]")  # what a browser on this machine calls the server; a rebound name is none
RESTS_S, PATIENCE = 1.0, 10.0  # the disk is looked at again after a second, or ten times as long as the last look took
KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".json": "application/json"}
POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
Answer = tuple[bytes, str]


class Live:
    """The records below the paths as the page's files, read again when somebody asks and some time has passed."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths, self._collection, self._lock = paths, Collection(), threading.Lock()
        self._next, self._assets = 0.0, page.assets()
        self._view: View | None = None
        self._scripts: dict[str, str] = {}

    def first_look(self) -> None:
        """Read everything before anybody asks; a path that is not there is a wrong request."""
        self._collection.update(self._paths)

    def view(self) -> View:
        """What is on disk now, give or take a second."""
        with self._lock:
            if self._view is None or time.monotonic() >= self._next:
                started = time.monotonic()
                self._view = self._looked()
                self._next = time.monotonic() + max(RESTS_S, PATIENCE * (time.monotonic() - started))
            return self._view

    def _looked(self) -> View:
        trouble = []
        try:
            self._collection.update(self._paths)
        except RequestError as error:  # a folder that went away while the page was open
            trouble.append(str(error))
        own = self._collection
        view = content.view(own, title=title_of(own), mode="live", axes=None, running=studies(self._paths))
        view.manifest["warnings"] = trouble + view.manifest["warnings"]
        listed = {*view.kept, *view.manifest["rows"], str(view.manifest["labels"])}
        self._scripts = {name: text for name, text in {**self._scripts, **view.scripts}.items() if name in listed}
        own.chunks = [replace(chunk, file=name) for chunk, name in zip(own.chunks, view.kept, strict=True)]
        return view

    def answer(self, path: str) -> Answer | None:
        """(content, its kind) of one of the page's files; None for anything else."""
        folder, _, name = path.strip("/").rpartition("/")
        if path in ("/", "/index.html"):
            return page.linked(title_of(self._collection)).encode(), KINDS[".html"]
        if folder == "assets" and name in self._assets:
            return self._assets[name].encode(), KINDS[Path(name).suffix]
        if folder == "data":
            return self._data(name)
        if folder in ("data/runs", "pictures"):
            return self._of_run(folder, name)
        return None

    def _data(self, name: str) -> Answer | None:
        view = self.view()
        if name == "manifest.js":
            return content.manifest_script(view.manifest).encode(), KINDS[".js"]
        if name == "manifest.json":
            return json.dumps(view.manifest, allow_nan=False).encode(), KINDS[".json"]
        return (self._scripts[name].encode(), KINDS[".js"]) if name in self._scripts else None

    def _of_run(self, folder: str, name: str) -> Answer | None:
        """Details or picture of a run that is shown, read from its own folder."""
        stem, _, ending = name.rpartition(".")
        with self._lock:
            names = self._collection.values("_file")
            if stem not in names or ending != ("js" if folder == "data/runs" else "png"):
                return None
            sources = [source for chunk in self._collection.chunks for source in chunk.sources]
            record = Path(sources[names.index(stem)].path)
        try:
            if ending == "js":
                return content.detail(stem, record).encode(), KINDS[".js"]
            return pictures.content(record.parent), "image/png"
        except (OSError, ValueError, pictures.PictureError):  # it has just gone, or is being written again
            return None


class Server(ThreadingHTTPServer):
    """Threads that end with it; a client that hangs up is no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server(answer: Callable[[str], Answer | None], port: int) -> ThreadingHTTPServer:
    """A server that is bound, not yet serving; port 0 takes any free one."""
    try:
        return Server((HOST, port), _handler(answer))
    except (OSError, OverflowError) as cause:
        raise RequestError("port", port, f"a free port is accepted ({cause})") from cause


def _handler(answer: Callable[[str], Answer | None]) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        server: Server

        def do_GET(self) -> None:
            if not self._is_own_name():
                self.send_error(421, "This server answers to localhost only")
                return
            found = answer(unquote(self.path.partition("?")[0]))
            if found is None:
                self.send_error(404)
                return
            body, kind = found
            tag = f'"{sha256(body).hexdigest()[:16]}"'
            unchanged = self.headers.get("If-None-Match") == tag
            self.send_response(304 if unchanged else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Type", kind if kind.startswith("image/") else f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(0 if unchanged else len(body)))
            for name, value in _headers():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and not unchanged:
                self.wfile.write(body)

        do_HEAD = do_GET

        def _is_own_name(self) -> bool:
            """Against DNS rebinding: a stranger's page reaches this address under the stranger's name."""
            return self.headers.get("Host") in {f"{name}:{self.server.server_port}" for name in OWN_NAMES}

        def log_message(self, format: str, *args: object) -> None:
            """A page that is looked at is no news."""

    return Page


def _headers() -> list[tuple[str, str]]:
    return [
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Content-Security-Policy", POLICY),
    ]
