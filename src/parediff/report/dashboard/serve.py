"""The page on localhost, drawn anew at every reload."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from parediff.errors import RequestError

HOST = "127.0.0.1"


def server(draw: Callable[[], str], port: int) -> ThreadingHTTPServer:
    """A server that is bound, not yet serving; port 0 takes any free one."""
    try:
        return ThreadingHTTPServer((HOST, port), _handler(draw))
    except (OSError, OverflowError) as cause:
        raise RequestError("port", port, f"a free port is accepted ({cause})") from cause


def _handler(draw: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/index.html"):
                self.send_error(404)
                return
            content = draw().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """A page that is looked at is no news."""

    return Page
