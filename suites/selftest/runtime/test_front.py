"""What stands in front of a target: a container or a process, whichever can be had; started, found again, ended, and swept."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from brokerproof.brokers.base import Opening
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import front, images, localproxy, sweep
from brokerproof.runtime.ground import LinkSpec
from brokerproof.runtime.localproxy import LocalProxy, Server
from brokerproof.runtime.node import client
from brokerproof.target import Target, TargetNode

OPENING = Opening(greeting=b"hello", longer=b"hello" * 100, whole=bool)
TARGET = Target(
    path=Path("mine.toml"), product="rabbitmq", nodes={"r1": TargetNode(name="r1", address=("127.0.0.1", 1))}
)
#: Says what Toxiproxy says, keeps the links it is given, and moves no octet.
FAKE = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if sys.argv[1:] == ["-version"]:
    print("toxiproxy-server version {version}")
    sys.exit()
print("Starting", flush=True)
if {ends}:
    sys.exit("no room for me")
proxies = {{}}
class Api(BaseHTTPRequestHandler):
    def answer(self, code, data):
        body = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200, proxies if self.path == "/proxies" else {{"version": "{version}"}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        proxies[asked["name"]] = {{"enabled": True, "toxics": [], **asked}}
        self.answer(201, proxies[asked["name"]])
host, port = sys.argv[sys.argv.index("-host") + 1], int(sys.argv[sys.argv.index("-port") + 1])
HTTPServer((host, port), Api).serve_forever()
"""


def fake(folder: Path, *, version: str = "2.9.0", ends: bool = False) -> Path:
    file = folder / "toxiproxy-server"
    file.write_text(FAKE.format(python=sys.executable, version=version, ends=ends))
    file.chmod(0o755)
    return file


@pytest.fixture(autouse=True)
def nothing_of_the_engines(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(sweep, "_labelled", lambda: iter(()))
    monkeypatch.delenv(localproxy.VARIABLE, raising=False)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_answers() -> None:
        raise EnvironmentProblem("no engine answers; install one")

    monkeypatch.setattr(front, "client", none_answers)


@pytest.fixture
def peer() -> Iterator[int]:
    """The port of somebody who repeats what is said to them."""

    def repeat(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def serve() -> None:
        try:
            while True:
                threading.Thread(target=repeat, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def opened(program: Server, port: int = 1, *, run: str = "run", published: int = 0) -> LocalProxy:
    links = [
        LinkSpec(group, "r1", port, published=published, upstream=f"127.0.0.1:{port}") for group in ("producer", "sham")
    ]
    return LocalProxy.open(
        name="bp-front", run=run, links=links[: 1 if published else 2], opening=OPENING, program=program
    )


def alive(pid: int) -> bool:
    return sweep._started(pid) != ""


# -- the process -------------------------------------------------------------------------------------------------------


def test_it_is_started_found_by_another_process_and_ended(tmp_path: Path) -> None:
    proxy = opened(localproxy.server(str(fake(tmp_path))))
    (process,) = [item for item in sweep.leftovers("run") if item.kind == "process"]
    pid = int(process.name)
    assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C is for the run"
    assert [link.name for link in proxy.links] == ["producer-r1", "sham-r1"] and len(proxy.links_of("sham")) == 1
    assert proxy.proxy == "toxiproxy-server 2.9.0, a process"
    found = front.found(name="bp-front", run="run", opening=OPENING)
    assert [link.address for link in found.links] == [link.address for link in proxy.links]
    proxy.save_logs(tmp_path / "logs")
    assert "Starting" in (tmp_path / "logs" / "toxiproxy.log").read_text()
    proxy.save_logs(tmp_path / "again")
    assert "Starting" not in (tmp_path / "again" / "toxiproxy.log").read_text()
    found.close()
    proxy.close()
    proxy.close()
    assert not alive(pid)
    assert [item.kind for item in sweep.leftovers("run")] == ["file"]
    sweep.unregister("run")
    assert sweep.leftovers("run") == []


def test_a_killed_run_leaves_it_to_the_sweeper(tmp_path: Path, state: Path) -> None:
    """The harness is killed while its proxy runs; whoever comes next ends that."""
    code = (
        "import os, signal\n"
        "from brokerproof.brokers.base import Opening\n"
        "from brokerproof.runtime import localproxy\n"
        "from brokerproof.runtime.ground import LinkSpec\n"
        "localproxy.LocalProxy.open(name='bp-front', run='killed', links=[LinkSpec('sham', 'r1', 1, upstream='127.0.0.1:1')],\n"
        f"    opening=Opening(greeting=b'', longer=b'', whole=bool), program=localproxy.server({str(fake(tmp_path))!r}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    (process,) = [item for item in sweep.leftovers() if item.kind == "process"]
    assert alive(int(process.name))
    assert process in sweep.clean()
    assert not alive(int(process.name))
    assert not any((state / "runs").iterdir())


def test_one_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentProblem, match=r"ended with 1; the last lines of its log:\n    Starting\n    no room for me"
    ):
        opened(localproxy.server(str(fake(tmp_path, ends=True))))
    assert [item.kind for item in sweep.leftovers("run")] == ["file"]


# -- which one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "fits"), [("2.1.4", True), ("2.12.0", True), ("git", True), ("1.2.1", False), ("3.0.0", False)]
)
def test_versions(version: str, fits: bool, tmp_path: Path) -> None:
    file = str(fake(tmp_path, version=version))
    if fits:
        assert localproxy.server(file) == Server(file, version)
        return
    with pytest.raises(EnvironmentProblem, match=r"expected a Toxiproxy 2\.x"):
        localproxy.server(file)


def test_the_program_is_named_or_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"no program 'toxiproxy-server'.*releases.*BROKERPROOF_TOXIPROXY"):
        localproxy.server()
    file = fake(tmp_path)
    assert localproxy.server().path == str(file)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv(localproxy.VARIABLE, str(fake(tmp_path / "other", version="2.5.0")))
    assert localproxy.server().version == "2.5.0"
    assert localproxy.server(str(file)).version == "2.9.0", "what the target file names comes first"
    nothing = tmp_path / "nothing"
    nothing.write_text("#!/bin/sh\n")
    nothing.chmod(0o755)
    with pytest.raises(EnvironmentProblem, match="-version says ''"):
        localproxy.server(str(nothing))


def as_(way: str, server: str = "") -> Target:
    return replace(TARGET, toxiproxy=way, toxiproxy_server=server)


def test_a_container_where_an_engine_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "client", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert front.way(as_("")) == front.way(as_("container")) == "container"
    with pytest.raises(EnvironmentProblem, match="no program"):
        front.way(as_("local"))
    assert front.way(as_("local", str(fake(tmp_path)))) == "local"


@pytest.mark.usefixtures("no_engine")
def test_else_a_process_and_else_both_ways_out_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="no engine answers; install one; or without an engine: no program"):
        front.way(as_(""))
    with pytest.raises(EnvironmentProblem, match=r"no engine answers; install one$"):
        front.way(as_("container"))
    fake(tmp_path)
    assert front.way(as_("")) == "local"
    proxy = front.put(as_(""), name="bp-front", run="run", links=[], opening=OPENING)
    assert isinstance(proxy, LocalProxy)
    proxy.close()


# -- with Toxiproxy itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def toxiproxy(tmp_path: Path) -> Server:
    """The program that is in our image."""
    container = client().containers.create(images.ensure("toxiproxy").tag)
    try:
        octets = b"".join(container.get_archive("/toxiproxy")[0])
    finally:
        container.remove(force=True)
    with tarfile.open(fileobj=io.BytesIO(octets)) as archive:
        archive.extract("toxiproxy", tmp_path, filter="data")
    return localproxy.server(str(tmp_path / "toxiproxy"))


@pytest.mark.container
def test_toxiproxy_itself_carries_and_breaks_a_link(toxiproxy: Server, peer: int) -> None:
    with closing(opened(toxiproxy, peer)) as proxy:
        (link,) = proxy.links_of("producer")
        (other,) = proxy.links_of("sham")
        assert link.greet(5).answered
        toxic = link.add_toxic("timeout", "downstream", timeout=0)
        assert not link.greet(0.5).answered and other.greet(5).answered
        link.remove_toxic(toxic)
        assert link.greet(5).answered
        link.disable()
        assert link.greet(5).ended == "refused"
        link.enable()
        assert link.greet(5).answered
        with pytest.raises(EnvironmentProblem, match="own network"):
            link.silence()
    assert link.greet(1).ended == "refused"


@pytest.mark.container
def test_a_port_that_is_taken_is_said(toxiproxy: Server, peer: int) -> None:
    with pytest.raises(EnvironmentProblem, match="address already in use"):
        opened(toxiproxy, peer, published=peer)
    assert [item.kind for item in sweep.leftovers("run")] == ["file"]
