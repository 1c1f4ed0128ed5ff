"""A Toxiproxy as a process of this machine, in front of nodes that somebody else runs: what stands there without a container engine.

    client process --127.0.0.1:port--> toxiproxy-server --> node

The process is registered with the run before anything is asked of it, so a killed run leaves it to the sweeper; where it listens
stands in a file beside that, for other processes of the run. It is in this machine's own network: see ``ground.NoSilencer``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import Opening
from brokerproof.errors import DeadlineError, EnvironmentProblem
from brokerproof.runtime import sweep
from brokerproof.runtime.ground import LOOPBACK, LinkSpec, NoSilencer, published_ports
from brokerproof.runtime.proxy import ProxyLink, ProxyServer
from brokerproof.waiting import wait_until

#: Names the program where it is not on the path, or not under this name.
VARIABLE, NAME = "BROKERPROOF_TOXIPROXY", "toxiproxy-server"
_START_S, _ASK_S = 30.0, 30.0
_LOG_LINES = 5
# ``go install`` of a tagged module builds a program that says "git": the tag is set by whoever packages it.
_VERSION = re.compile(r"version (2\.\S+|git)\s*$", re.MULTILINE)
_GET = (
    f"install Toxiproxy 2.x (one program: https://github.com/Shopify/toxiproxy/releases) as {NAME} on the path, or say where it "
    f'is: {VARIABLE}, or [toxiproxy] server = "…" in the target file'
)


@dataclass(frozen=True, slots=True)
class Server:
    """The program, and the version that it says of itself."""

    path: str
    version: str


def server(named: str = "") -> Server:
    """The program called so; by default what the environment names, or what is on the path. Raises EnvironmentProblem where there
    is none, or it is no Toxiproxy 2.x."""
    wanted = named or os.environ.get(VARIABLE, "") or NAME
    path = shutil.which(wanted)
    if path is None:
        raise EnvironmentProblem(f"no program {wanted!r} on this machine; {_GET}")
    try:
        said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=_ASK_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EnvironmentProblem(f"asking {path} for its version: {exc}; {_GET}") from exc
    found = _VERSION.search(said)
    if found is None:
        raise EnvironmentProblem(f"{path} -version says {said.strip()[:100]!r}; expected a Toxiproxy 2.x; {_GET}")
    return Server(path, found[1])


class LocalProxy:
    """``runtime.front.Front``. Made by ``open`` (starts) or ``attach`` (takes hold of what runs)."""

    def __init__(self, *, name: str, run: str, shape: Mapping[str, Any], opening: Opening) -> None:
        self.name = name
        self._run, self._pid = run, int(shape["pid"])
        self.proxy = f"{NAME} {shape['version']}, a process"
        self.server = ProxyServer(LOOPBACK, shape["api_port"])
        self.links = [
            ProxyLink(self.server, NoSilencer(), group=s["group"], node=s["node"], address=(LOOPBACK, s["published"]), opening=opening)
            for s in shape["links"]
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        #: Octets of its log that were saved.
        self._saved = 0

    @classmethod
    def open(
        cls, *, name: str, run: str, links: Sequence[LinkSpec], opening: Opening, program: Server
    ) -> LocalProxy:  # fmt: skip
        """links: each with its ``upstream``. Raises EnvironmentProblem with the end of its log where it does not come to answer."""
        with published_ports(len(links) + 1) as ports:
            published = [spec.published or ports[i] for i, spec in enumerate(links)]
        process = _start(program, ports[-1], _log(run, name))
        sweep.register_process(run, process.pid)
        shape = {
            "pid": process.pid, "version": program.version, "api_port": ports[-1],
            "links": [{"group": s.group, "node": s.node, "published": p} for s, p in zip(links, published, strict=True)],
        }  # fmt: skip
        front = cls(name=name, run=run, shape=shape, opening=opening)
        front._process = process
        try:
            front._wait_ready(program)
            for spec, port in zip(links, published, strict=True):
                front.server.create(f"{spec.group}-{spec.node}", listen=f"{LOOPBACK}:{port}", upstream=spec.upstream)
            _shape_file(run, name).write_text(json.dumps(shape))
        except BaseException:
            front.close()
            raise
        return front

    @classmethod
    def attach(cls, *, name: str, run: str, opening: Opening) -> LocalProxy | None:
        """None where the run has no such process."""
        try:
            shape = json.loads(_shape_file(run, name).read_text())
        except FileNotFoundError:
            return None
        return cls(name=name, run=run, shape=shape, opening=opening)

    def links_of(self, group: str) -> list[ProxyLink]:
        return [link for link in self.links if link.group == group]

    def save_logs(self, folder: Path) -> None:
        """What it has logged since the last time this was called."""
        folder.mkdir(parents=True, exist_ok=True)
        with _log(self._run, self.name).open("rb") as log:
            log.seek(self._saved)
            lines = log.read()
        (folder / "toxiproxy.log").write_bytes(lines)
        self._saved += len(lines)

    def close(self) -> None:
        """Ends the process; safe to call twice."""
        sweep.end_process(self._run, self._pid)
        if self._process is not None:
            self._process.wait()
        for file in (_shape_file(self._run, self.name), _log(self._run, self.name)):
            file.unlink(missing_ok=True)

    def _wait_ready(self, program: Server) -> None:
        process = self._process
        assert process is not None  # it was started by ``open``
        with contextlib.suppress(DeadlineError):
            wait_until(
                lambda: process.poll() is not None or self.server.answers(), _START_S, "answers", interval_s=0.05
            )
        # One that finds its port taken goes on without it, and says so in its log only.
        if process.poll() is None and self.server.answers():
            return
        tail = "\n    ".join(_log(self._run, self.name).read_text(errors="replace").splitlines()[-_LOG_LINES:])
        how = "does not answer" if process.poll() is None else f"ended with {process.returncode}"
        raise EnvironmentProblem(f"starting {program.path}: it {how}; the last lines of its log:\n    {tail}")


def _start(program: Server, port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as sink:
        return subprocess.Popen(
            [program.path, "-host", LOOPBACK, "-port", str(port)], stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the run, which still needs its links to heal and to remove what it made
        )  # fmt: skip


def _shape_file(run: str, name: str) -> Path:
    return sweep.file_of(run, f"{name}.json")


def _log(run: str, name: str) -> Path:
    return sweep.file_of(run, f"{name}.log")
