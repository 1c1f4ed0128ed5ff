"""``clock``: the wall clock of each node can be moved while it runs, its monotonic clock cannot.

A node's processes are started with a library (``dockerfiles/clock/clock.c``, which says why it is not libfaketime) that is
built once, in an image of its own, and put into the container beside its configuration. So the broker's image, built or
official, is as it was, as long as its C library is glibc.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from brokerproof.errors import EnvironmentProblem, HarnessError
from brokerproof.runtime import building, clockwork, recipes, registry, sweep
from brokerproof.runtime.node import LABEL_OWNER, LABEL_RUN, ContainerNode, NodeSpec, client, engine_errors

_IN_IMAGE = "/libclock.so"
_TRIED_S, _TRY_S = 7200.0, 60


class Clock:
    """``equipment.Kind``."""

    def missing(self) -> str:
        recipe = _recipe()
        assert isinstance(recipe.parent, recipes.Recipe)
        try:
            there = any(registry.image_named(client(), tag) is not None for tag in (recipe.tag, recipe.parent.tag))
            if there or registry.answers() or os.geteuid() == 0:
                return ""  # it is here, or what it is built on is, or can be had
        except HarnessError as exc:
            return f"equipment clock: {exc}"
        return (
            f"equipment clock: its image {recipe.tag!r} is not here and cannot be built: no registry answers, and making a "
            "Debian to build on needs root; next: `brokerproof images build` once as root"
        )

    def equip(self, spec: NodeSpec, *, cluster: str, run: str) -> tuple[NodeSpec, dict[str, Any]]:
        """Raises EnvironmentProblem for an image whose processes do not load the library."""
        library = _library(_recipe().tag)
        _moves(spec.image, library, run)
        preload = ":".join(filter(None, (spec.environment.get("LD_PRELOAD", ""), clockwork.LIBRARY)))
        environment = {**spec.environment, "LD_PRELOAD": preload, clockwork.VARIABLE: clockwork.RECORD}
        files = {**spec.files, clockwork.LIBRARY: library, clockwork.RECORD: clockwork.TRUE}
        return replace(spec, environment=environment, files=files), {}

    def attach(self, nodes: Mapping[str, ContainerNode], *, cluster: str, run: str) -> None:
        """Nothing: faults act by commands in the container."""

    def check(self, node: ContainerNode) -> None:
        """Nothing: ``equip`` has tried it."""

    def remove(self, cluster: str) -> None:
        """Nothing: all of it is in the containers."""


def _recipe() -> recipes.Recipe:
    return recipes.recipe_for("clock", "1")


@lru_cache(maxsize=1)
def _library(tag: str) -> bytes:
    """The library, out of its image, which is built where it is not here yet (about 15 s)."""
    building.build(client(), _recipe(), lambda _: None)
    with engine_errors(f"reading {_IN_IMAGE} of {tag!r}"):
        container = client().containers.create(tag, command=["-"], labels=sweep.labels_of_a_moment())  # never started
        try:
            chunks, _ = container.get_archive(_IN_IMAGE)
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                file = archive.extractfile(archive.getmembers()[0])
                return file.read() if file else b""
        finally:
            container.remove(force=True)


@lru_cache(maxsize=32)
def _moves(image: str, library: bytes, run: str) -> None:
    """Asks a container of that image, with its clock moved, for the date (0.5 s, once per image and run)."""
    moved = clockwork.record(time.time_ns(), _TRIED_S, 0.0)
    packed = recipes.archive({clockwork.LIBRARY.lstrip("/"): library, clockwork.RECORD.lstrip("/"): moved}).read()
    with engine_errors(f"trying the clock library in {image!r}"):
        container = client().containers.create(
            image, entrypoint=["sh", "-c"], command=[clockwork.ASK], network_mode="none",
            environment={"LD_PRELOAD": clockwork.LIBRARY, clockwork.VARIABLE: clockwork.RECORD},
            labels={LABEL_RUN: run, LABEL_OWNER: sweep.owner_label(run)},
        )  # fmt: skip
        try:
            container.put_archive("/", packed)
            container.start()
            container.wait(timeout=_TRY_S)
            said = container.logs().decode(errors="replace")
        finally:
            container.remove(force=True)
    with contextlib.suppress(ValueError):
        seen = clockwork.ahead(said)
        if abs(seen.ahead_s - _TRIED_S) <= seen.error_s + 1:
            return
    raise EnvironmentProblem(
        f"equipment clock: processes of image {image!r} do not load the clock library (it needs glibc): a clock moved by "
        f"{_TRIED_S:g} s is seen as {said.strip()[-300:]!r}; next: use a built image (BROKERPROOF_IMAGES=build)"
    )


KIND = Clock()
