"""The one adapter around toxiproxy-python: a proxy server per cluster, links with deadlines.

toxiproxy-python keeps the server's address in a class attribute and sets no time-outs; both are put right here and
nowhere else: calls are serialised, each sets the address first, and requests get a deadline.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import toxiproxy
import toxiproxy.api
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from brokerproof.brokers.base import Greeted
from brokerproof.errors import EnvironmentProblem

DEADLINE_S = 5.0
_one_at_a_time = threading.Lock()


class _WithDeadline:
    """Stands where toxiproxy-python looks for ``requests``, and adds the time-out it does not have."""

    @staticmethod
    def get(**kwargs: Any) -> requests.Response:
        return requests.get(timeout=DEADLINE_S, **kwargs)

    @staticmethod
    def post(**kwargs: Any) -> requests.Response:
        return requests.post(timeout=DEADLINE_S, **kwargs)

    @staticmethod
    def delete(**kwargs: Any) -> requests.Response:
        return requests.delete(timeout=DEADLINE_S, **kwargs)


toxiproxy.api.requests = _WithDeadline


class ProxyServer:
    """One Toxiproxy server, by the address of its API."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    @contextmanager
    def _api(self, doing: str) -> Iterator[toxiproxy.Toxiproxy]:
        with _one_at_a_time:
            server = toxiproxy.Toxiproxy()
            server.update_api_consumer(self._host, self._port)
            try:
                yield server
            except (requests.RequestException, NotFound, InvalidToxic, ProxyExists, ValueError) as exc:
                raise EnvironmentProblem(
                    f"{doing}: the proxy at {self._host}:{self._port} says: {exc}; is its container still running?"
                ) from exc

    def answers(self) -> bool:
        try:
            with self._api("asking for the version") as server:
                return server.version() is not None
        except EnvironmentProblem:
            return False

    def create(self, name: str, *, listen: str, upstream: str) -> None:
        with self._api(f"making the link {name!r}") as server:
            server.create(upstream=upstream, name=name, listen=listen)

    def enable(self, name: str, enabled: bool) -> None:
        with self._api(f"switching the link {name!r}") as server:
            proxy = self._proxy(server, name)
            if enabled:
                proxy.enable()
            else:
                proxy.disable()

    def add_toxic(self, name: str, kind: str, stream: str, attributes: dict[str, int]) -> None:
        with self._api(f"adding {kind} to the link {name!r}") as server:
            self._proxy(server, name).add_toxic(type=kind, stream=stream, attributes=attributes)

    def clear_toxics(self, name: str) -> None:
        with self._api(f"clearing the link {name!r}") as server:
            proxy = self._proxy(server, name)
            for toxic in proxy.toxics():
                proxy.destroy_toxic(toxic)

    @staticmethod
    def _proxy(server: toxiproxy.Toxiproxy, name: str) -> Any:
        proxy = server.get_proxy(name)
        if proxy is None:
            raise NotFound(f"no proxy called {name!r}")
        return proxy


class ProxyLink:
    """A client link as ``brokers.base.Link``."""

    def __init__(
        self, server: ProxyServer, *, group: str, node: str, address: tuple[str, int], greeting: bytes
    ) -> None:
        self._server = server
        self.group, self.node = group, node
        self.name = f"{group}-{node}"
        self.address = address
        self.greeting = greeting

    def disable(self) -> None:
        self._server.enable(self.name, False)

    def enable(self) -> None:
        self._server.enable(self.name, True)

    def add_toxic(self, kind: str, stream: str, **attributes: int) -> None:
        self._server.add_toxic(self.name, kind, stream, attributes)

    def clear_toxics(self) -> None:
        self._server.clear_toxics(self.name)

    def greet(self, timeout_s: float) -> Greeted:
        return greet(self.address, self.greeting, timeout_s)


def greet(address: tuple[str, int], greeting: bytes, timeout_s: float) -> Greeted:
    """Connects, sends the protocol's first octets, waits for any answer. Never raises."""
    start = time.monotonic()
    try:
        sock = socket.create_connection(address, timeout=timeout_s)
    except OSError:
        return Greeted(False, False, "", None)
    with sock:
        try:
            sock.settimeout(max(0.01, timeout_s - (time.monotonic() - start)))
            sock.sendall(greeting)
            data = sock.recv(4096)
        except ConnectionError:
            return Greeted(True, False, "rst", None)
        except OSError:
            return Greeted(True, False, "", None)
        if not data:
            return Greeted(True, False, "fin", None)
        return Greeted(True, True, "", (time.monotonic() - start) * 1000)
