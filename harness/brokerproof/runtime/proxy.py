"""The one adapter around toxiproxy-python: a proxy server per cluster, links with deadlines.

toxiproxy-python keeps the server's address in a class attribute and sets no time-outs; both are put right here and
nowhere else: calls are serialised, each sets the address first, and requests get a deadline.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import requests
import toxiproxy
import toxiproxy.api
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from brokerproof.brokers.base import Greeted, Opening
from brokerproof.errors import EnvironmentProblem

DEADLINE_S = 5.0
_one_at_a_time = threading.Lock()
#: Toxics of this process, numbered: several of one kind can be on one link.
_numbers = itertools.count(1)


class _Direct:
    """Stands where toxiproxy-python looks for ``requests``, and adds the time-out it does not have.

    The environment is not asked: an HTTP proxy that it names is not for calls to loopback, and reading it fails where another
    thread changes it meanwhile, as pytest does between two tests.
    """

    @staticmethod
    def get(**kwargs: Any) -> requests.Response:
        return _asked("GET", **kwargs)

    @staticmethod
    def post(**kwargs: Any) -> requests.Response:
        return _asked("POST", **kwargs)

    @staticmethod
    def delete(**kwargs: Any) -> requests.Response:
        return _asked("DELETE", **kwargs)


def _asked(method: str, **kwargs: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, timeout=DEADLINE_S, **kwargs)
    if answer.status_code >= 500:
        # toxiproxy-python looks for a proxy in it: a KeyError where a port was taken.
        raise requests.HTTPError(answer.text.strip())
    return answer


toxiproxy.api.requests = _Direct


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
                    f"{doing}: the proxy at {self._host}:{self._port} says: {exc}; does it still run?"
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

    def add_toxic(self, name: str, kind: str, stream: str, attributes: dict[str, int]) -> str:
        toxic = f"{kind}_{stream}_{os.getpid()}_{next(_numbers)}"
        with self._api(f"adding {kind} to the link {name!r}") as server:
            self._proxy(server, name).add_toxic(type=kind, stream=stream, attributes=attributes, name=toxic)
        return toxic

    def remove_toxic(self, name: str, toxic: str) -> None:
        with self._api(f"taking {toxic} from the link {name!r}") as server:
            proxy = self._proxy(server, name)
            if toxic in proxy.toxics():
                proxy.destroy_toxic(toxic)

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


class Silencer(Protocol):
    """Drops the packets of one link, by its port on the proxy."""

    def silence(self, port: int) -> None: ...
    def unsilence(self, port: int) -> None: ...


class ProxyLink:
    """A client link as ``brokers.base.Link``."""

    def __init__(
        self, server: ProxyServer, silencer: Silencer, *, group: str, node: str, address: tuple[str, int],
        opening: Opening,
    ) -> None:  # fmt: skip
        self._server, self._silencer = server, silencer
        self.group, self.node = group, node
        self.name = f"{group}-{node}"
        self.address = address
        self.opening = opening

    def disable(self) -> None:
        self._server.enable(self.name, False)

    def enable(self) -> None:
        self._server.enable(self.name, True)

    def add_toxic(self, kind: str, stream: str, **attributes: int) -> str:
        return self._server.add_toxic(self.name, kind, stream, attributes)

    def remove_toxic(self, name: str) -> None:
        self._server.remove_toxic(self.name, name)

    def clear_toxics(self) -> None:
        self._server.clear_toxics(self.name)

    def silence(self) -> None:
        self._silencer.silence(self.address[1])

    def unsilence(self) -> None:
        self._silencer.unsilence(self.address[1])

    def greet(self, timeout_s: float) -> Greeted:
        return greet(self.address, self.opening.greeting, timeout_s)

    def exchange(self, timeout_s: float) -> Greeted:
        return exchange(self.address, self.opening.longer, self.opening.whole, timeout_s)


def greet(address: tuple[str, int], greeting: bytes, timeout_s: float) -> Greeted:
    """Connects, sends the protocol's first octets, waits for any answer. Never raises."""
    return exchange(address, greeting, bool, timeout_s)


def exchange(
    address: tuple[str, int], greeting: bytes, whole: Callable[[bytes], bool], timeout_s: float
) -> Greeted:  # fmt: skip
    """Connects, sends, reads until ``whole`` says that this is all of the answer. Never raises.

    Reads are small and follow each other at once, so that what came in pieces is seen in pieces.
    """
    start = time.monotonic()
    answer, pieces, ended = bytearray(), 0, ""
    first_ms = last_ms = None
    try:
        sock = socket.create_connection(address, timeout=timeout_s)
    except OSError as exc:
        return Greeted(False, False, "refused" if isinstance(exc, ConnectionRefusedError) else "", None)
    with sock:
        try:
            sock.settimeout(max(0.01, timeout_s - (time.monotonic() - start)))
            sock.sendall(greeting)
            while not whole(bytes(answer)):
                sock.settimeout(max(0.01, timeout_s - (time.monotonic() - start)))
                data = sock.recv(4096)
                if not data:
                    ended = "fin"
                    break
                last_ms = (time.monotonic() - start) * 1000
                first_ms = last_ms if first_ms is None else first_ms
                answer += data
                pieces += 1
        except ConnectionError:
            ended = "rst"
        except OSError:
            pass  # the deadline
    answered = whole(bytes(answer))
    return Greeted(
        True, answered, ended, first_ms, sent=len(greeting), octets=len(answer), pieces=pieces, whole_ms=last_ms
    )
