"""The images that clusters are made of: found on this machine, pulled where a registry answers, else built from packages.

    rootfs (debootstrap, or the registry's debian)
      base:bookworm -- jre -- kafka, rocketmq          base:trixie -- rabbitmq:4.0.5, toxiproxy, side
           \\-- rabbitmq:3.10.8

A built image is named by what it was built from: ``brokerproof/<product>:<version>-<hash of Dockerfile, context and
parent>``. So a second call builds nothing, a change of one byte builds anew, and two versions of the harness live side
by side. Built images use the official images' users, paths and entry points: one launch command serves both.

``BROKERPROOF_IMAGES`` = ``auto`` (as above; the default), ``build`` (never ask a registry), ``pull`` (the brokers' official
images or an error; what has none is built all the same).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, TypedDict, TypeVar

import docker
import docker.errors
import requests
import urllib3.exceptions

from brokerproof.errors import EnvironmentProblem, HarnessError, UsageError, unknown
from brokerproof.runtime import engine
from brokerproof.waiting import wait_until

#: What ``ci/try`` needs: the newest version of each broker, the proxy, and the side container.
DEFAULTS: Mapping[str, str] = {
    "rabbitmq": "4.0.5",
    "kafka": "4.3.1",
    "rocketmq": "5.5.0",
    "toxiproxy": "2.12.0",
    "side": "1",
}
#: Versions that were built and started; others of Kafka and RocketMQ may build, others of RabbitMQ can be pulled only.
VERSIONS: Mapping[str, tuple[str, ...]] = {
    "rabbitmq": ("4.0.5", "3.10.8"),
    "kafka": ("4.3.1", "3.9.2"),
    "rocketmq": ("5.5.0", "5.3.3"),
    "toxiproxy": (DEFAULTS["toxiproxy"],),
    "side": (DEFAULTS["side"],),
}
#: Debian release whose package is that version of RabbitMQ.
_RABBITMQ_SUITES = {"4.0.5": "trixie", "3.10.8": "bookworm"}
_OFFICIAL = {"rabbitmq": "rabbitmq:{}", "kafka": "apache/kafka:{}", "rocketmq": "apache/rocketmq:{}"}

LABEL_IMAGE = "brokerproof.image"
LABEL_PRODUCT, LABEL_VERSION, LABEL_PACKAGE = "brokerproof.product", "brokerproof.version", "brokerproof.package"
_LABEL_STAGE = "brokerproof.stage"  # set in the Dockerfiles' build stages, so that they can be removed afterwards
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the builder paints what a step writes to stderr
_PACKAGE_FILE = "/usr/share/brokerproof/package"

_BUILD_TIMEOUT_S = 1200
_SILENCE_TIMEOUT_S = 300  # a build step that says nothing for so long hangs; the slowest seen was 40 s
_PULL_TIMEOUT_S = 900
_PROBE_TIMEOUT_S = 5
_LOG_LINES = 20
_DOCKERFILES = Path(__file__).parent / "dockerfiles"
_STAGE_TOOLS = "_stage"
# The host's trust is no part of what an image is made of: only build stages see it, and it differs from host to host.
_CA_BUNDLE = "ca-bundle.crt"

T = TypeVar("T")
# All that a call to the engine raises; the last is what a stream that falls silent ends with.
_ENGINE_TROUBLE = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError)

Origin = Literal["official", "built", "local"]
Mode = Literal["auto", "build", "pull"]
#: Called with a line on what goes on and for how long: after two seconds, then every ten. From several threads.
Progress = Callable[[str], None]


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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one image is built: a folder with a Dockerfile, its build arguments, and the image it starts from.

    parent: a recipe, or the name of a Debian release: then the root file system is fetched.
    package: how the version of the package inside must begin, so that a tag never claims another broker's version.
    """

    product: str
    version: str
    parent: Recipe | str
    package: str
    args: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.product} {self.version}"

    @property
    def tag(self) -> str:
        """Content-addressed; the same on every machine with the same files."""
        parent = self.parent if isinstance(self.parent, str) else self.parent.tag
        digest = hashlib.sha256(parent.encode())
        for key, value in sorted({**self.args, "VERSION": self.version}.items()):
            digest.update(f"\0{key}={value}".encode())
        for name, content in sorted(context_files(self.product).items()):
            digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
        return f"brokerproof/{self.product}:{self.version}-{digest.hexdigest()[:12]}"


# -- what others call --------------------------------------------------------------------------------------------------


def ensure(product: str, version: str | None = None, progress: Progress | None = None) -> ImageRef:
    """The image of that product and version, got in the cheapest way that works. None: the default version."""
    return _ensure(product, version or _default(product), progress or _quiet, _mode())


def ensure_all(names: Sequence[str] = (), progress: Progress | None = None) -> list[ImageRef]:
    """``ensure`` for several ``product[=version]`` at once, two at a time; none: the defaults.

    All are tried before the first failure is raised, so that a second run has less left to do.
    """
    return _together(names, progress or _quiet, _mode())


def pull(names: Sequence[str] = (), progress: Progress | None = None) -> list[ImageRef]:
    """Official images only; none: those defaults that have one."""
    wanted = names or [f"{product}={version}" for product, version in DEFAULTS.items() if product in _OFFICIAL]
    for product, version in map(_split, wanted):
        if not _official(product, version):
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
    with _engine_errors("listing images"):
        there = {tag: image for image in client.images.list() for tag in image.tags}
    rows = []
    for product, versions in VERSIONS.items():
        for version in versions:
            recipe = recipe_for(product, version)
            tags = [recipe.tag, *_official(product, version)]
            tag = next((t for t in tags if t in there), recipe.tag)
            rows.append(_row(product, version, tag, there.pop(tag, None)))
    for tag, image in sorted(there.items()):
        labels = image.labels or {}
        if labels.get(LABEL_IMAGE):
            rows.append(_row(labels.get(LABEL_PRODUCT, "?"), labels.get(LABEL_VERSION, "?"), tag, image))
    return rows


def recipe_for(product: str, version: str) -> Recipe:
    """How that image is built; UsageError for a product that does not exist or a version without a package."""
    match product:
        case "base":
            return Recipe("base", version, parent=version, package="")
        case "jre":
            return Recipe("jre", version, parent=recipe_for("base", "bookworm"), package=f"{version}.")
        case "rabbitmq":
            if version not in _RABBITMQ_SUITES:
                known = ", ".join(_RABBITMQ_SUITES)
                raise UsageError(
                    f"building rabbitmq {version!r}: no package of that version is known; those of {known} are, "
                    f"others need a registry (BROKERPROOF_IMAGES=pull)"
                )
            return Recipe("rabbitmq", version, recipe_for("base", _RABBITMQ_SUITES[version]), package=version)
        case "kafka":
            logging = "reload4j" if version.startswith(("2.", "3.")) else "log4j2"
            return Recipe("kafka", version, recipe_for("jre", "17"), package=version, args={"LOGGING": logging})
        case "rocketmq":
            return Recipe("rocketmq", version, recipe_for("jre", "17"), package=version)
        case "toxiproxy":
            return Recipe("toxiproxy", version, recipe_for("base", "trixie"), package=version)
        case "side":
            return Recipe("side", version, recipe_for("base", "trixie"), package="")
    raise unknown("image", product, DEFAULTS)


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


# -- choosing ----------------------------------------------------------------------------------------------------------


def _mode() -> Mode:
    given = os.environ.get("BROKERPROOF_IMAGES", "") or "auto"
    match given:
        case "auto" | "build" | "pull":
            return given
    raise UsageError(f"BROKERPROOF_IMAGES is {given!r}: expected auto, build or pull")


def _default(product: str) -> str:
    if product not in DEFAULTS:
        raise unknown("image", product, DEFAULTS)
    return DEFAULTS[product]


def _official(product: str, version: str) -> list[str]:
    """Name of the pinned official image, if there is one; Toxiproxy's is in no registry that engines know by default."""
    return [_OFFICIAL[product].format(version)] if product in _OFFICIAL else []


def _ensure(product: str, version: str, progress: Progress, mode: Mode) -> ImageRef:
    _default(product)  # an unknown product is said first, before an engine is looked for
    client = engine.connect()
    official = _official(product, version) if mode != "build" else []
    if mode != "pull" or not official:
        # A version that cannot be built may still be had from a registry.
        with contextlib.suppress(UsageError) if official else contextlib.nullcontext():
            recipe = recipe_for(product, version)
            if ref := _present(client, recipe):
                return ref
    for tag in official:
        if image := _image(client, tag):
            return ImageRef(product, version, tag, "official", str(image.id))
        if mode == "pull" or registry_answers():
            try:
                return _pull(client, product, version, tag, progress)
            except EnvironmentProblem as exc:
                if mode == "pull":
                    raise
                progress(f"{exc}; building it instead")
    return _built(client, recipe_for(product, version), progress)


def _together(names: Sequence[str], progress: Progress, mode: Mode) -> list[ImageRef]:
    wanted = [_split(name) for name in names] or list(DEFAULTS.items())
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="images") as pool:
        futures = [pool.submit(_ensure, product, version, progress, mode) for product, version in wanted]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def _split(name: str) -> tuple[str, str]:
    product, _, version = name.partition("=")
    return product, version or _default(product)


@lru_cache(maxsize=1)
def registry_answers() -> bool:
    """Whether the engine reaches its registry; asked once per process, answered within five seconds."""
    client = engine.connect(timeout_s=_PROBE_TIMEOUT_S)
    try:
        client.api.inspect_distribution("debian:bookworm-slim")  # type: ignore[no-untyped-call]  # stubs lack it
    except _ENGINE_TROUBLE:
        return False
    return True


def _present(client: docker.DockerClient, recipe: Recipe) -> ImageRef | None:
    image = _image(client, recipe.tag)
    return None if image is None else _ref(recipe, "local", image)


def _ref(recipe: Recipe, origin: Origin, image: Any) -> ImageRef:
    labels = image.labels or {}
    return ImageRef(recipe.product, recipe.version, recipe.tag, origin, str(image.id), labels.get(LABEL_PACKAGE, ""))


def _image(client: docker.DockerClient, tag: str) -> Any:
    """The engine's image of that name, None when it has none."""
    with _engine_errors(f"looking for image {tag!r}"):
        try:
            return client.images.get(tag)
        except docker.errors.ImageNotFound:
            return None


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


@contextlib.contextmanager
def _engine_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except _ENGINE_TROUBLE as exc:
        raise EnvironmentProblem(f"{doing}: the container engine says: {exc}; next: `brokerproof doctor`") from exc


def _quiet(line: str) -> None:
    """No progress wanted."""


# -- pulling -----------------------------------------------------------------------------------------------------------


def _pull(client: docker.DockerClient, product: str, version: str, tag: str, progress: Progress) -> ImageRef:
    doing = f"pulling {tag}"
    log: deque[str] = deque(maxlen=_LOG_LINES)

    def work() -> None:
        stop_at = time.monotonic() + _PULL_TIMEOUT_S
        for line in client.api.pull(tag, stream=True, decode=True):
            if "error" in line:
                raise EnvironmentProblem(f"{doing}: the registry says: {line['error']}")
            log.append(str(line.get("status", "")))
            if time.monotonic() > stop_at:
                raise EnvironmentProblem(f"{doing}: not done after {_PULL_TIMEOUT_S} s; last said: {log[-1]}")

    with _locked(tag, doing, progress), _engine_errors(doing):
        if _image(client, tag) is None:
            _with_ticks(work, doing, progress)
        image = _image(client, tag)
    if image is None:
        raise EnvironmentProblem(f"{doing}: no error, yet the image is not there; next: `docker pull {tag}` by hand")
    return ImageRef(product, version, tag, "official", str(image.id))


# -- building ----------------------------------------------------------------------------------------------------------


def _built(client: docker.DockerClient, recipe: Recipe, progress: Progress) -> ImageRef:
    """The recipe's image: there already, or built after its parents. Locks are taken from child to parent only."""
    tag = recipe.tag
    with _locked(tag, f"{recipe.name}: waiting for whoever builds it", progress):
        if ref := _present(client, recipe):
            return ref
        if isinstance(recipe.parent, str):
            parent = _root_file_system(client, recipe.parent, progress)
        else:
            parent = _built(client, recipe.parent, progress).tag
        try:
            image_id = _run_build(
                context(recipe.product),
                {**recipe.args, "VERSION": recipe.version, "PARENT": parent, "KEY": tag, **_proxy_settings()},
                {LABEL_IMAGE: "1", LABEL_PRODUCT: recipe.product, LABEL_VERSION: recipe.version},
                f"building {recipe.name}",
                progress,
            )
            _finish(client, image_id, recipe, progress)
        finally:
            _remove_stages(client, tag)
        image = _image(client, tag)
        if image is None:
            raise EnvironmentProblem(
                f"building {recipe.name}: done, yet {tag!r} is not there; next: `brokerproof doctor`"
            )
        return _ref(recipe, "built", image)


def _finish(client: docker.DockerClient, image_id: str, recipe: Recipe, progress: Progress) -> None:
    """Names the image, once it is known to hold what its name says; one that does not is removed."""
    try:
        package = _package(client, image_id, recipe)
        # A Dockerfile cannot put what a step found out into a label; a second one, of a label only, can.
        dockerfile = f"FROM {image_id}\nLABEL {LABEL_PACKAGE}={package}\n".encode()
        _run_build(_archive({"Dockerfile": dockerfile}), {}, {}, f"labelling {recipe.name}", progress, tag=recipe.tag)
    except HarnessError:
        with contextlib.suppress(*_ENGINE_TROUBLE):
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
        stop_at = time.monotonic() + _BUILD_TIMEOUT_S
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
                    raise failed(f"not done after {_BUILD_TIMEOUT_S} s")
        if not image_id:
            raise failed("it ended without an image")
        return image_id

    try:
        return _with_ticks(work, doing, progress)
    except _ENGINE_TROUBLE as exc:
        raise failed(f"the container engine says: {exc}") from exc


def _package(client: docker.DockerClient, image_id: str, recipe: Recipe) -> str:
    """The version of the package inside, which the build wrote down; it must be the version that was asked for."""
    with _engine_errors(f"reading {_PACKAGE_FILE} of {recipe.name}"):
        container = client.containers.create(image_id, command=["-"])  # never started, so that an empty image will do
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
    with contextlib.suppress(*_ENGINE_TROUBLE):
        client.images.prune(filters={"dangling": True, "label": f"{_LABEL_STAGE}={tag}"})


def _proxy_settings() -> dict[str, str]:
    """The proxy that this process uses, for the build steps; builders know these names and keep them out of the image."""
    names = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    return {n: os.environ[n] for name in names for n in (name, name.upper()) if os.environ.get(n)}


def _root_file_system(client: docker.DockerClient, suite: str, progress: Progress) -> str:
    """A minimal Debian to start from: the registry's where it answers, else made here by debootstrap."""
    mode = _mode()
    if mode != "build" and registry_answers():
        with contextlib.suppress(EnvironmentProblem):
            return _pull(client, "debian", suite, f"debian:{suite}-slim", progress).tag
    tag = f"brokerproof/rootfs:{suite}"
    if _image(client, tag) is not None:
        return tag
    if os.geteuid() != 0:
        raise EnvironmentProblem(
            f"making a Debian {suite} to build images from: no registry answers, and debootstrap needs root; "
            f"next: run `python -m brokerproof.runtime.images` once as root, or give the engine a registry"
        )
    with _locked(tag, f"debian {suite}: waiting for whoever makes it", progress):
        if _image(client, tag) is None:
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
        _with_ticks(lambda: _debootstrap(suite, folder / "root", folder / "log", doing), doing, progress)
        _with_ticks(lambda: _import(client, folder / "root", tag, doing), f"importing Debian {suite}", progress)


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
                timeout=_BUILD_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code:
        seen = f"exit code {code}" if code > 0 else f"not done after {_BUILD_TIMEOUT_S} s"
        lines = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise EnvironmentProblem(
            f"{doing}: {seen}; its last lines:\n{lines}\nnext: see whether this machine reaches Debian's packages"
        )


def _import(client: docker.DockerClient, root: Path, tag: str, doing: str) -> None:
    """Hands the folder to the engine as an image, without what no container reads."""
    left_out = ["var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*"]
    command = ["tar", "-C", str(root), *(f"--exclude=./{pattern}" for pattern in left_out), "-c", "."]
    repository, _, version = tag.partition(":")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar, _engine_errors(doing):
        client.api.import_image_from_data(
            tar.stdout,
            repository=repository,
            tag=version,
            changes=[f"LABEL {LABEL_IMAGE}=1 {LABEL_PRODUCT}=rootfs {LABEL_VERSION}={version}", 'CMD ["/bin/sh"]'],
        )
    if tar.returncode:
        with contextlib.suppress(docker.errors.DockerException):
            client.images.remove(tag)
        raise EnvironmentProblem(f"{doing}: packing it with tar: exit code {tar.returncode}; next: is the disk full?")


# -- build contexts ----------------------------------------------------------------------------------------------------


def context_files(product: str) -> dict[str, bytes]:
    """Path -> content of what that image is built from; the tag is their hash."""
    folder = _DOCKERFILES / product
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in (_DOCKERFILES / _STAGE_TOOLS).iterdir():
        if path.name.encode() in files["Dockerfile"]:  # a tool that is not used must not change the tag
            files[path.name] = path.read_bytes()
    return files


def context(product: str) -> IO[bytes]:
    """The same as a tar archive, with the host's certificates where a build stage asks for them."""
    files = context_files(product)
    if _CA_BUNDLE.encode() in files["Dockerfile"]:
        files[_CA_BUNDLE] = _host_certificates()
    return _archive(files)


def _archive(files: Mapping[str, bytes]) -> IO[bytes]:
    """Times and owners are left out, and scripts are executable, whatever an installation made of the files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    target.seek(0)
    return target


def _host_certificates() -> bytes:
    """The certificates this host trusts, empty where none are found: the image's own are used then."""
    named = [os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    usual = [
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ]
    for path in (*named, *usual):
        if path and os.path.isfile(path):
            return Path(path).read_bytes()
    return b""


# -- waiting -----------------------------------------------------------------------------------------------------------


class _Ticks:
    """When to say that something goes on: after two seconds, then every ten."""

    def __init__(self, doing: str, progress: Progress) -> None:
        self._doing, self._progress = doing, progress
        self._began = time.monotonic()
        self._due_s = 2.0

    def tell(self) -> None:
        elapsed_s = time.monotonic() - self._began
        if elapsed_s >= self._due_s:
            self._due_s = 10.0 * (elapsed_s // 10 + 1)
            self._progress(f"{self._doing}: {elapsed_s:.0f} s")


def _with_ticks(work: Callable[[], T], doing: str, progress: Progress) -> T:
    """``work()`` in a thread, while ``progress`` hears that it goes on."""
    ticks = _Ticks(doing, progress)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as pool:
        future: Future[T] = pool.submit(work)
        while not future.done():
            concurrent.futures.wait([future], timeout=0.5)
            ticks.tell()
        return future.result()


@contextlib.contextmanager
def _locked(tag: str, waiting_for: str, progress: Progress) -> Iterator[None]:
    """One process, and one thread of it, at a time per tag; the kernel frees the lock of a process that died."""
    ticks = _Ticks(waiting_for, progress)

    def taken() -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ticks.tell()
            return False
        return True

    with engine.lock_file(tag.replace("/", "_").replace(":", "_")).open("w") as file:
        wait_until(taken, 2 * _BUILD_TIMEOUT_S, waiting_for, interval_s=0.2)
        yield


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
