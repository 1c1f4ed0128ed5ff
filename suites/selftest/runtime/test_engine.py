"""The engine is found where it is, and an error says what was tried and what to do; none of it needs an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import docker.errors
import pytest
import requests

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import engine


class Machine:
    """A machine on which engines answer at ``alive`` only; records which addresses were tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, alive: set[str]) -> None:
        self.alive, self.tried = alive, []  # type: tuple[set[str], list[str]]
        monkeypatch.setattr(docker, "DockerClient", lambda base_url, timeout: self._client(base_url))
        monkeypatch.setattr(docker, "from_env", lambda timeout: self._client(os.environ.get("DOCKER_HOST", "default")))
        monkeypatch.setattr(docker.ContextAPI, "get_current_context", lambda: None)
        monkeypatch.delenv("DOCKER_HOST", raising=False)

    def _client(self, address: str) -> Any:
        self.tried.append(address)

        def ping() -> None:
            if address not in self.alive:
                try:
                    raise FileNotFoundError(2, "No such file or directory")
                except FileNotFoundError as exc:
                    raise requests.ConnectionError("Connection aborted, three layers up") from exc

        over = "http+docker://localhost" if address.startswith("unix") else "http://127.0.0.1:2375"
        api = SimpleNamespace(base_url=over, trust_env=True)
        return SimpleNamespace(ping=ping, close=lambda: None, address=address, api=api)


USUAL = "unix:///var/run/docker.sock"


def test_ryuk_is_off_before_testcontainers_is_imported() -> None:
    code = "import brokerproof.runtime.engine, testcontainers.core.config as c; print(c.testcontainers_config.ryuk_disabled)"
    environment = {k: v for k, v in os.environ.items() if k != "TESTCONTAINERS_RYUK_DISABLED"}
    folder = Path(engine.__file__).parents[2]
    seen = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == "True"


def test_the_usual_socket_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, alive={USUAL})
    engine.connect()
    assert machine.tried[0] == USUAL
    assert "DOCKER_HOST" not in os.environ


@pytest.mark.parametrize(("host", "asks"), [("unix:///elsewhere.sock", False), ("tcp://127.0.0.1:2375", True)])
def test_an_http_proxy_is_looked_for_where_one_may_be_on_the_way(
    host: str, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, alive={host})
    monkeypatch.setenv("DOCKER_HOST", host)
    assert engine.connect().api.trust_env is asks


def test_docker_host_decides_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, alive={USUAL})
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(EnvironmentProblem, match=r"DOCKER_HOST is 'tcp://127\.0\.0\.1:1': start that engine, or unset"):
        engine.connect()
    assert set(machine.tried) == {"tcp://127.0.0.1:1"}


def test_an_engine_without_root_is_found_and_children_find_it_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docker.sock").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    address = f"unix://{tmp_path}/docker.sock"
    Machine(monkeypatch, alive={address})
    monkeypatch.setenv("DOCKER_HOST", "")  # so that what connect sets is undone after the test
    engine.connect()
    assert os.environ["DOCKER_HOST"] == address


def test_the_clients_context_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, alive={"unix:///elsewhere.sock"})
    monkeypatch.setenv("DOCKER_HOST", "")
    context = SimpleNamespace(Host="unix:///elsewhere.sock")
    monkeypatch.setattr(docker.ContextAPI, "get_current_context", lambda: context)
    engine.connect()
    assert os.environ["DOCKER_HOST"] == "unix:///elsewhere.sock"


def test_a_broken_context_hides_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, alive={USUAL})

    def broken() -> None:
        raise docker.errors.ContextException("a context file that is no JSON")

    monkeypatch.setattr(docker.ContextAPI, "get_current_context", broken)
    engine.connect()
    assert machine.tried[-1] in {USUAL, "default"}


def test_the_error_has_what_was_tried_the_bottom_cause_and_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, alive=set())
    monkeypatch.setattr(engine, "_can_install", lambda: False)
    with pytest.raises(EnvironmentProblem) as caught:
        engine.connect()
    text = str(caught.value)
    assert f"{USUAL}: No such file or directory" in text
    assert "three layers up" not in text
    assert any(word in text for word in ("install", "start it", "add this user to the group"))


def test_who_cannot_install_gets_the_error_and_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, alive=set())
    monkeypatch.setattr(engine, "_can_install", lambda: False)
    monkeypatch.setattr(engine, "_run", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(EnvironmentProblem, match="looking for a container engine"):
        engine.ensure(pytest.fail)


def test_installing_is_announced_before_it_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, alive=set())
    happened: list[str] = []

    def start(say: engine.Say) -> None:
        happened.append("start")
        machine.alive.add(USUAL)

    monkeypatch.setattr(engine, "_can_install", lambda: True)
    monkeypatch.setattr(engine, "_installed", lambda: False)
    monkeypatch.setattr(engine, "state_folder", lambda: tmp_path)
    monkeypatch.setattr(engine, "_start", start)
    monkeypatch.setattr(engine, "apt_install", lambda packages: happened.append(f"install {packages[0]}"))
    engine.ensure(happened.append)
    assert happened[0].startswith("no container engine answers: installing docker.io, iptables")
    assert happened[1:] == ["install docker.io", "start"]


def test_an_engine_that_another_process_started_meanwhile_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, alive=set())

    def first_look_done() -> bool:
        machine.alive.add(USUAL)
        return True

    monkeypatch.setattr(engine, "_can_install", first_look_done)
    monkeypatch.setattr(engine, "state_folder", lambda: tmp_path)
    monkeypatch.setattr(engine, "_install", lambda say: pytest.fail("installed although an engine answers"))
    engine.ensure(lambda line: None)


def test_the_list_of_packages_is_fetched_again_and_a_failure_quotes_the_last_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        ran.append("update" if "update" in command else "install")
        return subprocess.CompletedProcess(command, 100, stdout="first\n" * 30 + "E: no such package\n")

    monkeypatch.setattr(engine, "_run", run)
    with pytest.raises(
        EnvironmentProblem, match=r"apt-get: exit code 100(.|\n)*E: no such package\n.*by hand"
    ) as caught:
        engine.apt_install(["docker.io"])
    assert ran == ["update", "update", "update", "install"]
    assert str(caught.value).count("first") < 25


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="under systemd the engine is a service")
def test_a_daemon_that_ends_at_once_is_an_error_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "dockerd").write_text("#!/bin/sh\necho 'failed to start daemon: no iptables'\nexit 3\n")
    (commands / "dockerd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr(engine, "state_folder", lambda: tmp_path)
    monkeypatch.setattr(engine, "_answers", lambda: False)
    with pytest.raises(
        EnvironmentProblem, match=r"exit code 3; the last lines(.|\n)*no iptables\nrun `dockerd` by hand"
    ):
        engine._start(lambda line: None)


def test_containers_together_weigh_more_than_one_process_where_the_kernel_knows_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SHARES_OF", tmp_path)
    engine._weigh()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "cpu.shares").write_text("1024")
    engine._weigh()
    assert (tmp_path / "docker" / "cpu.shares").read_text() == "2048"
    monkeypatch.setattr(engine, "_SHARES_OF", tmp_path / "none")
    engine._weigh()
