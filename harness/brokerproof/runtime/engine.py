"""The container engine: which one answers, and getting one where none does.

    connect()   the engine that answers, or EnvironmentProblem with the next step
    ensure()    the same; where none answers and this is root on Debian or Ubuntu: installs ``docker.io``, starts it

``DOCKER_HOST`` decides alone when it is set. Else: the usual socket, the docker client's current context, and the
sockets of an engine that runs without root. No ``docker`` command is needed; one that is there proves no engine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Ryuk, the sweeper of testcontainers, is an image that may not be in reach, and kills by age what a long run still
# needs; the harness sweeps by label. Read when testcontainers is imported, so it is set before that can happen.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

import docker
import docker.errors
import platformdirs
import requests

from brokerproof.errors import EnvironmentProblem, HarnessError
from brokerproof.waiting import wait_until

#: What a call to the engine may take; starting a container on a busy two-core machine was seen to take 20 s.
CALL_TIMEOUT_S = 120
_PROBE_TIMEOUT_S = 3
_APT_TIMEOUT_S = 600
_START_TIMEOUT_S = 60
_USUAL_SOCKET = "unix:///var/run/docker.sock"
_LOG_LINES = 20
#: All containers together, where an engine of ours runs them beside everything else on a kernel of cgroup v1. Without it they weigh
#: as much as one process does, and a broker under test has a twelfth of a machine on which a dozen test processes are busy.
_SHARES_OF = Path("/sys/fs/cgroup/cpu")
_SHARES = 2048

Say = Callable[[str], None]


def connect(timeout_s: int = CALL_TIMEOUT_S) -> docker.DockerClient:
    """A client of the engine that answers. ``timeout_s``: for each later call.

    An engine elsewhere than at the usual socket is put into ``DOCKER_HOST``, so that every library and every child
    process of this one speaks to the same.
    """
    tried: list[str] = []
    for host in _hosts():
        error = _silence(host)
        if error is None:
            if host not in ("", _USUAL_SOCKET):
                os.environ["DOCKER_HOST"] = host
            client = docker.from_env(timeout=timeout_s)
            # To a socket of this machine no HTTP proxy leads; and the environment, which would name one, is changed by pytest
            # while other threads call the engine.
            client.api.trust_env = not client.api.base_url.startswith("http+")
            return client
        tried.append(f"{host or 'as the environment says'}: {error}")
    raise EnvironmentProblem(
        f"looking for a container engine: expected one to answer, got {'; '.join(tried)}; {next_step()}"
    )


def ensure(say: Say = print) -> docker.DockerClient:
    """Like ``connect``; where none answers and it can be done, installs and starts one. ``say`` hears it beforehand."""
    try:
        return connect()
    except EnvironmentProblem:
        if not _can_install():
            raise
    with _one_at_a_time("engine"):
        with contextlib.suppress(EnvironmentProblem):
            return connect()  # another process has started it meanwhile
        _install(say)
        _start(say)
    return connect()


def client_command() -> str:
    """Path of a ``docker`` (or ``podman``) command, empty when there is none. Information only: nothing here uses it."""
    return shutil.which("docker") or shutil.which("podman") or ""


def main() -> int:
    """``python -m brokerproof.runtime.engine``: makes sure that there is an engine. For ``ci/try`` and ``ci/test``."""
    try:
        engine = ensure(lambda line: print(line, flush=True))
        print(f"container engine: {engine.version()['Version']} at {engine.api.base_url}", flush=True)
    except HarnessError as exc:
        print(f"brokerproof: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


# -- finding -----------------------------------------------------------------------------------------------------------


def _hosts() -> list[str]:
    """Addresses to try, in order; "" stands for what ``docker.from_env`` makes of the environment."""
    if os.environ.get("DOCKER_HOST"):
        return [""]
    hosts = [_USUAL_SOCKET, _context_host()]
    runtime_folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for path in (Path(runtime_folder) / "docker.sock", Path.home() / ".docker/run/docker.sock"):
        if path.exists():
            hosts.append(f"unix://{path}")
    return list(dict.fromkeys(host for host in hosts if host))


def _context_host() -> str:
    """Where the docker client's current context points; empty when there is none or it cannot be read."""
    try:
        context = docker.ContextAPI.get_current_context()
        return str(context.Host or "") if context is not None else ""
    except (docker.errors.DockerException, OSError, ValueError, LookupError, TypeError, AttributeError):
        # a broken context file must not hide the engine behind the next address
        return ""


def _silence(host: str) -> str | None:
    """Why the engine at ``host`` does not answer; None when it does."""
    try:
        if host:
            probe = docker.DockerClient(base_url=host, timeout=_PROBE_TIMEOUT_S)
        else:
            probe = docker.from_env(timeout=_PROBE_TIMEOUT_S)
        with contextlib.closing(probe):
            probe.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as exc:
        return _innermost(exc)
    return None


def _innermost(exc: BaseException) -> str:
    """The sentence at the bottom of a chain of wrappers: "Permission denied", not three layers of "connection aborted"."""
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return text or type(exc).__name__


def next_step() -> str:
    """What somebody should do on this machine so that an engine answers."""
    if os.environ.get("DOCKER_HOST"):
        return f"DOCKER_HOST is {os.environ['DOCKER_HOST']!r}: start that engine, or unset it to look for another"
    if os.path.exists("/var/run/docker.sock") and not os.access("/var/run/docker.sock", os.W_OK):
        return "/var/run/docker.sock belongs to others: add this user to the group `docker` and log in again"
    if _can_install():
        return "run `python -m brokerproof.runtime.engine` (ci/try does): it installs docker.io and starts it"
    if sys.platform != "linux":
        return "install and start Docker Desktop or a compatible engine"
    if _installed():
        return "an engine is installed but does not run: start it as root, for instance `systemctl start docker`"
    return "install one as root, for instance `apt-get install docker.io iptables`, and start it"


# -- installing and starting -------------------------------------------------------------------------------------------


def _can_install() -> bool:
    """Root on Debian, Ubuntu or a relative, and nobody has told us to use another engine."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and not os.environ.get("DOCKER_HOST")


def _installed() -> bool:
    return shutil.which("dockerd") is not None


def _install(say: Say) -> None:
    if _installed() and shutil.which("iptables"):
        return
    # Where the kernel enforces AppArmor the engine refuses to start a container without its parser.
    apparmor = ["apparmor"] if _read("/sys/module/apparmor/parameters/enabled").startswith("Y") else []
    packages = ["docker.io", "iptables", *apparmor]
    say(f"no container engine answers: installing {', '.join(packages)} with apt (about 15 s), then starting dockerd")
    apt_install(packages)


def apt_install(packages: Sequence[str]) -> None:
    """Installs Debian packages; needs root. The list of packages is fetched up to three times: an index may stumble."""
    lock = ["-o", "DPkg::Lock::Timeout=120"]
    for attempt in range(3):
        update = _run(["apt-get", *lock, "-o", "Acquire::Retries=3", "update", "-qq"])
        if update.returncode == 0 or attempt == 2:
            break
    install = _run(["apt-get", *lock, "install", "-y", "-qq", "--no-install-recommends", *packages])
    if install.returncode:
        lines = "\n".join((update.stdout + install.stdout).splitlines()[-_LOG_LINES:])
        raise EnvironmentProblem(
            f"installing {', '.join(packages)} with apt-get: exit code {install.returncode}; its last lines:\n{lines}\n"
            f"install them by hand and try again"
        )


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise EnvironmentProblem(
            f"running `{' '.join(command)}`: not done after {_APT_TIMEOUT_S} s; run it by hand to see where it hangs"
        ) from exc


def _start(say: Say) -> None:
    """Starts the engine as a service where there is systemd, else as a process that outlives this one."""
    if Path("/run/systemd/system").is_dir():
        say("starting the service docker")
        _run(["systemctl", "start", "docker"])
        wait_until(_answers, _START_TIMEOUT_S, "the engine after `systemctl start docker`; see `journalctl -u docker`")
        return
    _weigh()
    log = state_folder() / "dockerd.log"
    say(f"starting dockerd; its log is {log}")
    with log.open("wb") as sink:
        daemon = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # else the end of this terminal or CI step would take the engine along
            cwd="/",
        )
    try:
        wait_until(lambda: _answers() or daemon.poll() is not None, _START_TIMEOUT_S, "dockerd to answer")
    except HarnessError as exc:
        daemon.terminate()
        raise _start_failed(log, f"no answer after {_START_TIMEOUT_S} s") from exc
    if daemon.poll() is not None:
        raise _start_failed(log, f"it ended with exit code {daemon.returncode}")


def _weigh() -> None:
    """Gives the containers to come their weight. An engine with a manager of its own for that, or a newer kernel, has no such file."""
    with contextlib.suppress(OSError):
        folder = _SHARES_OF / "docker"
        if (_SHARES_OF / "cpu.shares").exists():
            folder.mkdir(exist_ok=True)
            (folder / "cpu.shares").write_text(str(_SHARES))


def _start_failed(log: Path, seen: str) -> EnvironmentProblem:
    lines = "\n".join(_read(str(log)).splitlines()[-_LOG_LINES:])
    return EnvironmentProblem(
        f"starting dockerd: expected it to answer, but {seen}; the last lines of {log}:\n{lines}\n"
        f"run `dockerd` by hand, or set DOCKER_HOST to an engine that runs"
    )


def _answers() -> bool:
    return _silence(_USUAL_SOCKET) is None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def state_folder() -> Path:
    """Where the engine's log and the locks are. Not where runs register: the engine is one, however many of those."""
    folder = platformdirs.user_state_path("brokerproof")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go of it when that process dies, however it dies."""
    with lock_file(name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock_file(name: str) -> Path:
    """The file whose lock stands for ``name``. It stays: removing it would let two processes lock two files."""
    folder = state_folder() / "locks"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.lock"


if __name__ == "__main__":
    raise SystemExit(main())
