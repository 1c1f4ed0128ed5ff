"""Official images: whether the engine reaches its registry, and pulling from it."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import Any, Literal

import docker
import docker.errors
import urllib3.exceptions

from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.runtime import engine
from brokerproof.runtime.jobs import ENGINE_TROUBLE, JOB_TIMEOUT_S, Progress, locked, with_ticks
from brokerproof.runtime.node import engine_errors

Mode = Literal["auto", "build", "pull"]

_PROBE_TIMEOUT_S = 5


def mode() -> Mode:
    """What ``BROKERPROOF_IMAGES`` says; see ``images``."""
    given = os.environ.get("BROKERPROOF_IMAGES", "") or "auto"
    match given:
        case "auto" | "build" | "pull":
            return given
    raise UsageError(f"BROKERPROOF_IMAGES is {given!r}: expected auto, build or pull")


def answers() -> bool:
    """Whether the engine reaches its registry; False also where it shall not be asked."""
    return mode() != "build" and _probe()


@lru_cache(maxsize=1)
def _probe() -> bool:
    """Asked once per process, answered within five seconds."""
    client = engine.connect(timeout_s=_PROBE_TIMEOUT_S)
    try:
        client.api.inspect_distribution("debian:bookworm-slim")  # type: ignore[no-untyped-call]  # stubs lack it
    except ENGINE_TROUBLE:
        return False
    return True


def image_named(client: docker.DockerClient, tag: str) -> Any:
    """The engine's image of that name, None when it has none."""
    with engine_errors(f"looking for image {tag!r}"):
        try:
            return client.images.get(tag)
        except docker.errors.ImageNotFound:
            return None


def pull(client: docker.DockerClient, tag: str, progress: Progress) -> Any:
    """The engine's image of that name, fetched unless it is there."""
    doing = f"pulling {tag}"

    def work() -> None:
        stop_at = time.monotonic() + JOB_TIMEOUT_S
        said = "nothing"
        for line in client.api.pull(tag, stream=True, decode=True):
            if "error" in line:
                raise EnvironmentProblem(f"{doing}: the registry says: {line['error']}")
            said = str(line.get("status", said))
            if time.monotonic() > stop_at:
                raise EnvironmentProblem(f"{doing}: not done after {JOB_TIMEOUT_S} s; it last said {said!r}")

    with locked(tag, f"{tag}: waiting for whoever pulls it", progress), engine_errors(doing):
        if (image := image_named(client, tag)) is not None:
            return image
        try:
            with_ticks(work, doing, progress)
        except urllib3.exceptions.HTTPError as exc:
            raise EnvironmentProblem(f"{doing}: the engine fell silent: {exc}; next: `brokerproof doctor`") from exc
        if (image := image_named(client, tag)) is not None:
            return image
    raise EnvironmentProblem(f"{doing}: no error, yet the image is not there; next: `docker pull {tag}` by hand")
