"""What is read off a name server's log, a kernel's table and a wire, without either."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any, cast

import pytest

from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.pulling import Tap
from brokerproof.brokers.rocketmq.routes import established, registrations
from brokerproof.waiting import wait_until

LOG = """\
2026-11-22T02:21:49.872860436Z 02:21:49.872 DEBUG RocketmqNamesrv receive request, 103 10.86.244.10:51234 RemotingCommand [code=103]
2026-11-22T02:21:50.000000000Z 02:21:50.000 DEBUG RocketmqNamesrv receive request, 105 10.86.244.12:51235 RemotingCommand [code=105]
2026-11-22T02:22:19.872860436Z 02:22:19.872 DEBUG RocketmqNamesrv receive request, 103 10.86.244.11:51236 RemotingCommand [code=103]
2026-11-22T02:22:19.900000000Z 02:22:19.900 INFO  RocketmqNamesrv new broker registered, 10.86.244.11:10911
"""


def test_registrations_are_read_off_a_log_and_nothing_else_is() -> None:
    found = registrations(LOG)
    assert [address for _, address in found] == ["10.86.244.10", "10.86.244.11"]
    assert found[1][0] - found[0][0] == pytest.approx(30.0)
    assert registrations("") == []


def test_established_connections_are_read_off_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n"
        "   1: 0A01560A:C350 1401560A:2694 01 00000000:00000000\n"
        "   2: 0A01560A:C351 1401560A:2694 06 00000000:00000000\n"
        "   3: 0000000000000000FFFF00000A01560A:C352 0000000000000000FFFF00001501560A:2694 01 00000000:00000000\n"
    )
    assert established(table) == [("10.86.1.20", 9876), ("10.86.1.21", 9876)]


class _Answers:
    """A connection that answers everything with one body."""

    def __init__(self, body: str) -> None:
        self.body = body.encode()

    def call(self, code: int, fields: Any) -> remoting.Frame:
        return remoting.Frame(code=0, opaque=1, body=self.body)


def test_a_route_has_the_brokers_that_have_an_address() -> None:
    body = {
        "brokerDatas": [{"brokerName": "b1", "brokerAddrs": {"0": "10.0.0.1:10911"}}, {"brokerName": "b2", "brokerAddrs": {}}],
        "queueDatas": [{"brokerName": "b1", "writeQueueNums": 4}, {"brokerName": "b2", "writeQueueNums": 4}],
    }  # fmt: skip
    assert remoting.route(cast(remoting.Connection, _Answers(json.dumps(body))), "t") == {"b1": 4}
    assert remoting.route(cast(remoting.Connection, _Answers("{}")), "t") == {}


def test_who_is_registered_is_told_by_id_and_host() -> None:
    body = '{"brokerAddrTable":{"b1":{"brokerAddrs":{0:"10.0.0.1:10911",2:"10.0.0.2:10911"}}}}'
    assert remoting.cluster_info(cast(remoting.Connection, _Answers(body))) == {"b1": {0: "10.0.0.1", 2: "10.0.0.2"}}
    assert remoting.cluster_info(cast(remoting.Connection, _Answers("{}"))) == {}


def test_a_tap_passes_on_and_keeps_what_the_server_says() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tap = Tap(server.getsockname())

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"you said " + connection.recv(100))

        threading.Thread(target=answer, daemon=True).start()
        with socket.create_connection(tap.address, 5) as client:
            client.sendall(b"hello")
            wait_until(lambda: tap.came == b"you said hello", 5, "the answer on the wire")
            assert client.recv(100) == b"you said hello"
        tap.close()
