"""The minimal Debian that built images start from: the registry's where it answers, else made here by debootstrap.

No mirror is named: debootstrap and the distribution know theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import engine, registry
from brokerproof.runtime.jobs import ENGINE_TROUBLE, JOB_TIMEOUT_S, Progress, locked, with_ticks
from brokerproof.runtime.node import engine_errors
from brokerproof.runtime.recipes import LABEL_IMAGE, LABEL_PRODUCT, LABEL_VERSION

_LOG_LINES = 20


def ensure(client: docker.DockerClient, suite: str, progress: Progress) -> str:
    """Name of an image that holds the Debian release ``suite`` and no more."""
    if registry.answers():
        official = f"debian:{suite}-slim"
        with contextlib.suppress(EnvironmentProblem):
            registry.pull(client, official, progress)
            return official
    tag = f"brokerproof/rootfs:{suite}"
    if registry.image_named(client, tag) is not None:
        return tag
    if os.geteuid() != 0:
        raise EnvironmentProblem(
            f"making a Debian {suite} to build images from: no registry answers, and debootstrap needs root; "
            f"next: run `python -m brokerproof.runtime.images` once as root, or give the engine a registry"
        )
    with locked(tag, f"debian {suite}: waiting for whoever makes it", progress):
        if registry.image_named(client, tag) is None:
            _bootstrap(client, suite, tag, progress)
    return tag


def _bootstrap(client: docker.DockerClient, suite: str, tag: str, progress: Progress) -> None:
    if shutil.which("debootstrap") is None:
        if shutil.which("apt-get") is None:
            raise EnvironmentProblem(
                f"making a Debian {suite} to build images from: no registry answers, and there is no debootstrap; "
                f"next: install it with this system's package manager, or give the engine a registry"
            )
        engine.apt_install(["debootstrap", "debian-archive-keyring"])
    doing = f"debootstrap of Debian {suite}"
    with _scratch_folder(f"brokerproof-{suite}-") as folder:
        with_ticks(lambda: _debootstrap(suite, folder / "root", folder / "log", doing), doing, progress)
        with_ticks(lambda: _import(client, folder / "root", tag, doing), f"importing Debian {suite}", progress)


@contextlib.contextmanager
def _scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder that goes away at the end; what killed processes left of theirs goes first.

    Each folder is locked by whoever works in it: one that can be locked belongs to nobody.
    """
    # Not /tmp: often small, or mounted so that no device node may be made in it.
    place = Path("/var/tmp")
    for stale in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _folder_lock(stale):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        with _folder_lock(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _debootstrap(suite: str, root: Path, log: Path, doing: str) -> None:
    with log.open("w") as sink:
        try:
            code = subprocess.run(
                ["debootstrap", "--variant=minbase", suite, str(root)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=JOB_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code:
        seen = f"exit code {code}" if code > 0 else f"not done after {JOB_TIMEOUT_S} s"
        lines = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise EnvironmentProblem(
            f"{doing}: {seen}; its last lines:\n{lines}\nnext: see whether this machine reaches Debian's packages"
        )


def _import(client: docker.DockerClient, root: Path, tag: str, doing: str) -> None:
    """Hands the folder to the engine as an image, without what no container reads."""
    left_out = ["var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*"]
    command = ["tar", "-C", str(root), *(f"--exclude=./{pattern}" for pattern in left_out), "-c", "."]
    repository, _, version = tag.partition(":")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar, engine_errors(doing):
        client.api.import_image_from_data(
            tar.stdout,
            repository=repository,
            tag=version,
            changes=[f"LABEL {LABEL_IMAGE}=1 {LABEL_PRODUCT}=rootfs {LABEL_VERSION}={version}", 'CMD ["/bin/sh"]'],
        )
    if tar.returncode:
        with contextlib.suppress(*ENGINE_TROUBLE):
            client.images.remove(tag)
        raise EnvironmentProblem(f"{doing}: packing it with tar: exit code {tar.returncode}; next: is the disk full?")
