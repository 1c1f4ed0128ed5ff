"""Calls to a Toxiproxy server go to it, whatever the environment says of proxies of another kind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime.proxy import ProxyServer


class _Toxiproxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"2.12.0" if self.path == "/version" else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Toxiproxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_an_http_proxy_of_the_environment_is_not_for_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ProxyServer("127.0.0.1", port)
    assert server.answers()
    with pytest.raises(EnvironmentProblem, match="does it still run"):
        server.enable("nobody", True)


def test_a_server_that_is_not_there_does_not_answer() -> None:
    assert not ProxyServer("127.0.0.1", 9).answers()
