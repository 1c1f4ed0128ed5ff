"""Building one image with the engine's own builder: bounded in time, once for all processes, nothing left behind."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import time
from collections import deque
from collections.abc import Mapping
from typing import IO, Any

import docker

from brokerproof.errors import EnvironmentProblem, HarnessError
from brokerproof.runtime import engine, recipes, rootfs, sweep
from brokerproof.runtime.jobs import ENGINE_TROUBLE, JOB_TIMEOUT_S, Progress, locked, with_ticks
from brokerproof.runtime.node import engine_errors
from brokerproof.runtime.recipes import LABEL_IMAGE, LABEL_PACKAGE, LABEL_PRODUCT, LABEL_VERSION, Recipe
from brokerproof.runtime.registry import image_named

_SILENCE_TIMEOUT_S = 300  # a build step that says nothing for so long hangs; the slowest seen was 40 s
_LOG_LINES = 20
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the builder paints what a step writes to stderr
_LABEL_STAGE = "brokerproof.stage"  # set in the Dockerfiles' build stages, so that they can be removed afterwards
_PACKAGE_FILE = "/usr/share/brokerproof/package"


def build(client: docker.DockerClient, recipe: Recipe, progress: Progress) -> tuple[Any, bool]:
    """The engine's image for the recipe, and whether this call built it; parents first.

    Locks are taken from child to parent only, so no two builders wait for each other.
    """
    tag = recipe.tag
    with locked(tag, f"{recipe.name}: waiting for whoever builds it", progress):
        if (image := image_named(client, tag)) is not None:
            return image, False
        if isinstance(recipe.parent, str):
            parent = rootfs.ensure(client, recipe.parent, progress)
        else:
            build(client, recipe.parent, progress)
            parent = recipe.parent.tag
        try:
            image_id = _run_build(
                recipes.context(recipe.product),
                {**recipe.args, "VERSION": recipe.version, "PARENT": parent, "KEY": tag, **_proxy_settings()},
                {LABEL_IMAGE: "1", LABEL_PRODUCT: recipe.product, LABEL_VERSION: recipe.version},
                f"building {recipe.name}",
                progress,
            )
            _finish(client, image_id, recipe, progress)
        finally:
            _remove_stages(client, tag)
        if (image := image_named(client, tag)) is not None:
            return image, True
    raise EnvironmentProblem(f"building {recipe.name}: done, yet {tag!r} is not there; next: `brokerproof doctor`")


def _finish(client: docker.DockerClient, image_id: str, recipe: Recipe, progress: Progress) -> None:
    """Names the image, once it is known to hold what its name says; one that does not is removed."""
    try:
        package = _package(client, image_id, recipe)
        # A Dockerfile cannot put what a step found out into a label; a second one, of a label only, can.
        dockerfile = f"FROM {image_id}\nLABEL {LABEL_PACKAGE}={package}\n".encode()
        _run_build(
            recipes.archive({"Dockerfile": dockerfile}), {}, {}, f"labelling {recipe.name}", progress, tag=recipe.tag
        )
    except HarnessError:
        with contextlib.suppress(*ENGINE_TROUBLE):
            client.images.remove(image_id)
        raise


def _run_build(
    context_tar: IO[bytes],
    args: Mapping[str, str],
    labels: Mapping[str, str],
    doing: str,
    progress: Progress,
    tag: str | None = None,
) -> str:
    """One build by the engine's own builder; the image's id. Bounded in time; a failure quotes the log's end."""
    log: deque[str] = deque(maxlen=_LOG_LINES)

    def failed(why: str) -> EnvironmentProblem:
        lines = "\n".join(log)
        return EnvironmentProblem(
            f"{doing}: {why}; the last lines of its log:\n{lines}\n"
            f"next: build steps need the package indexes: look at this machine's network and proxy settings, then try again"
        )

    def work() -> str:
        stop_at = time.monotonic() + JOB_TIMEOUT_S
        image_id = ""
        # A client of its own: when it is dropped in the middle, its connection closes and the engine ends the build.
        with contextlib.closing(engine.connect(timeout_s=_SILENCE_TIMEOUT_S)) as client:
            lines = client.api.build(
                fileobj=context_tar,
                custom_context=True,
                decode=True,
                rm=True,
                forcerm=True,
                timeout=_SILENCE_TIMEOUT_S,
                buildargs=dict(args),
                labels=dict(labels),
                tag=tag,
            )
            for line in lines:
                text = _COLOUR.sub("", str(line.get("stream", "")))
                log.extend(row for row in text.splitlines() if row.strip())
                if "error" in line:
                    raise failed(str(line["error"]))
                image_id = (line.get("aux") or {}).get("ID", image_id)
                if time.monotonic() > stop_at:
                    raise failed(f"not done after {JOB_TIMEOUT_S} s")
        if not image_id:
            raise failed("it ended without an image")
        return image_id

    try:
        return with_ticks(work, doing, progress)
    except ENGINE_TROUBLE as exc:
        raise failed(f"the container engine says: {exc}") from exc


def _package(client: docker.DockerClient, image_id: str, recipe: Recipe) -> str:
    """The version of the package inside, which the build wrote down; it must be the version that was asked for."""
    with engine_errors(f"reading {_PACKAGE_FILE} of {recipe.name}"):
        container = client.containers.create(
            image_id, command=["-"], labels=sweep.labels_of_a_moment()
        )  # never started, so that an empty image will do
        try:
            chunks, _ = container.get_archive(_PACKAGE_FILE)
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                file = archive.extractfile(archive.getmembers()[0])
                package = file.read().decode().strip() if file else ""
        finally:
            container.remove(force=True)
    if not package.startswith(recipe.package):
        raise EnvironmentProblem(
            f"building {recipe.name}: expected the package index to have {recipe.package!r}, got {package!r}; "
            f"next: use a registry (BROKERPROOF_IMAGES=pull), or a version that the index has"
        )
    return package


def _remove_stages(client: docker.DockerClient, tag: str) -> None:
    """Removes this build's stages (compilers, Maven), never another's: they carry the tag that they were made for.

    What a failed build leaves is removed as well. A failure to remove is no reason to fail.
    """
    with contextlib.suppress(*ENGINE_TROUBLE):
        client.images.prune(filters={"dangling": True, "label": f"{_LABEL_STAGE}={tag}"})


def _proxy_settings() -> dict[str, str]:
    """The proxy that this process uses, for the build steps; builders know these names and keep them out of the image."""
    names = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    return {n: os.environ[n] for name in names for n in (name, name.upper()) if os.environ.get(n)}
