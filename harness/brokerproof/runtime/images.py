"""The images that clusters are made of: found on this machine, pulled where a registry answers, else built from packages.

A built image is named by what it was built from: ``brokerproof/<product>:<version>-<hash of Dockerfile, context and
parent>``. So a second call builds nothing, a change of one byte builds anew, and two versions of the harness live side
by side. Built images use the official images' users, paths and entry points: one launch command serves both.

``BROKERPROOF_IMAGES`` = ``auto`` (as above; the default), ``build`` (never ask a registry), ``pull`` (the brokers' official
images or an error; what has none is built all the same).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import docker

from brokerproof.errors import EnvironmentProblem, HarnessError, UsageError
from brokerproof.runtime import building, engine, registry
from brokerproof.runtime.jobs import Progress
from brokerproof.runtime.node import engine_errors
from brokerproof.runtime.recipes import (
    DEFAULTS,
    LABEL_IMAGE,
    LABEL_PACKAGE,
    LABEL_PRODUCT,
    LABEL_VERSION,
    VERSIONS,
    Recipe,
    default_version,
    official,
    recipe_for,
)

Origin = Literal["official", "built", "local"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that is on this machine.

    origin: ``official`` from a registry, ``built`` by this call, ``local`` built earlier from the very same files.
    package: version of the package inside, as its packager numbers it; empty for official images.
    """

    product: str
    version: str
    tag: str
    origin: Origin
    image_id: str
    package: str = ""


class ImageRow(TypedDict):
    """One row of ``brokerproof images list``; ``image_id`` is empty and ``size_mb`` 0 for an image that is not there."""

    product: str
    version: str
    tag: str
    image_id: str
    size_mb: int
    package: str
    default: bool


def ensure(product: str, version: str | None = None, progress: Progress | None = None) -> ImageRef:
    """The image of that product and version, got in the cheapest way that works. None: the default version."""
    return _ensure(product, version or default_version(product), progress or _quiet, registry.mode())


def would_be_official(product: str) -> bool:
    """Whether ``ensure`` would give the vendor's image of the default version, not one that was built here."""
    mode, version = registry.mode(), default_version(product)
    if mode == "build" or not official(product, version):
        return False
    client = engine.connect()
    if mode == "auto" and registry.image_named(client, recipe_for(product, version).tag) is not None:
        return False
    return registry.image_named(client, official(product, version)) is not None or mode == "pull" or registry.answers()


def ensure_all(names: Sequence[str] = (), progress: Progress | None = None) -> list[ImageRef]:
    """``ensure`` for several ``product[=version]`` at once, two at a time; none: the defaults.

    All are tried before the first failure is raised, so that a second run has less left to do.
    """
    return _together(names, progress or _quiet, registry.mode())


def pull(names: Sequence[str] = (), progress: Progress | None = None) -> list[ImageRef]:
    """Official images only; none: those defaults that have one."""
    wanted = names or [f"{product}={version}" for product, version in DEFAULTS.items() if official(product, version)]
    for product, version in map(_split, wanted):
        if not official(product, version):
            raise UsageError(
                f"pulling {product} {version}: it has no official image to pull; `brokerproof images build {product}` makes it"
            )
    return _together(wanted, progress or _quiet, "pull")


def build(names: Sequence[str] = (), progress: Progress | None = None) -> list[ImageRef]:
    """Images built from packages, whatever a registry may offer; none: the defaults."""
    return _together(names, progress or _quiet, "build")


def list_images() -> list[ImageRow]:
    """Every known product and version, there or not, then images built from other files than today's."""
    client = engine.connect()
    with engine_errors("listing images"):
        there = {tag: image for image in client.images.list() for tag in image.tags}
    rows = []
    for product, versions in VERSIONS.items():
        for version in versions:
            recipe = recipe_for(product, version)
            tags = [recipe.tag, official(product, version)]
            tag = next((t for t in tags if t in there), recipe.tag)
            rows.append(_row(product, version, tag, there.pop(tag, None)))
    for tag, image in sorted(there.items()):
        labels = image.labels or {}
        if labels.get(LABEL_IMAGE):
            rows.append(_row(labels.get(LABEL_PRODUCT, "?"), labels.get(LABEL_VERSION, "?"), tag, image))
    return rows


def main(arguments: Sequence[str]) -> int:
    """``python -m brokerproof.runtime.images [product[=version] ...]``: makes sure of them. For ``ci/try`` and ``ci/test``."""
    began = time.monotonic()
    try:
        for ref in ensure_all(arguments, lambda line: print(f"  {line}", flush=True)):
            print(f"image {ref.tag} ({ref.origin})", flush=True)
    except HarnessError as exc:
        print(f"brokerproof: {exc}", file=sys.stderr)
        return exc.exit_code
    print(f"images: ready after {time.monotonic() - began:.0f} s", flush=True)
    return 0


def _ensure(product: str, version: str, progress: Progress, mode: registry.Mode) -> ImageRef:
    default_version(product)  # an unknown product is said first, before an engine is looked for
    client = engine.connect()
    pinned = official(product, version) if mode != "build" else ""
    if mode != "pull" or not pinned:
        # A version that cannot be built may still be had from a registry.
        with contextlib.suppress(UsageError) if pinned else contextlib.nullcontext():
            recipe = recipe_for(product, version)
            if (image := registry.image_named(client, recipe.tag)) is not None:
                return _own(recipe, "local", image)
    if pinned and (image := _pulled(client, pinned, progress, mode)) is not None:
        return ImageRef(product, version, pinned, "official", str(image.id))
    recipe = recipe_for(product, version)
    image, fresh = building.build(client, recipe, progress)
    return _own(recipe, "built" if fresh else "local", image)


def _own(recipe: Recipe, origin: Origin, image: Any) -> ImageRef:
    package = (image.labels or {}).get(LABEL_PACKAGE, "")
    return ImageRef(recipe.product, recipe.version, recipe.tag, origin, str(image.id), package)


def _pulled(client: docker.DockerClient, tag: str, progress: Progress, mode: registry.Mode) -> Any:
    """The official image, None where it cannot be had and may be built instead."""
    if (image := registry.image_named(client, tag)) is not None:
        return image
    if mode == "auto" and not registry.answers():
        return None
    try:
        return registry.pull(client, tag, progress)
    except EnvironmentProblem as exc:
        if mode == "pull":
            raise EnvironmentProblem(f"{exc}; next: try again, or let it be built (BROKERPROOF_IMAGES=build)") from exc
        progress(f"{exc}; building it instead")
        return None


def _together(names: Sequence[str], progress: Progress, mode: registry.Mode) -> list[ImageRef]:
    wanted = [_split(name) for name in names] or list(DEFAULTS.items())
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="images") as pool:
        futures = [pool.submit(_ensure, product, version, progress, mode) for product, version in wanted]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def _split(name: str) -> tuple[str, str]:
    product, _, version = name.partition("=")
    return product, version or default_version(product)


def _row(product: str, version: str, tag: str, image: Any) -> ImageRow:
    labels = {} if image is None else image.labels or {}
    return {
        "product": product,
        "version": version,
        "tag": tag,
        "image_id": "" if image is None else str(image.id),
        "size_mb": 0 if image is None else round(int(image.attrs.get("Size", 0)) / 1e6),
        "package": labels.get(LABEL_PACKAGE, ""),
        "default": DEFAULTS.get(product) == version,
    }


def _quiet(line: str) -> None:
    """No progress wanted."""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
