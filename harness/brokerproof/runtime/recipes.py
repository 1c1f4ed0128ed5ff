"""How each image is built: which Dockerfile, from which parent, and the tag that follows from every byte of it.

    rootfs (debootstrap, or the registry's debian)
      base:bookworm -- jre -- kafka, rocketmq          base:trixie -- rabbitmq:4.0.5, toxiproxy, side
           \\-- rabbitmq:3.10.8, clock                     \\-- postgresql, mariadb, redis
      base:bullseye -- rabbitmq:3.8.9

Values and files only: nothing here speaks to an engine.
"""

from __future__ import annotations

import hashlib
import io
import os
import ssl
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from brokerproof.errors import UsageError, unknown

#: What ``ci/try`` needs: the newest version of each broker, the proxy, and the side container.
DEFAULTS: Mapping[str, str] = {
    "rabbitmq": "4.0.5",
    "kafka": "4.3.1",
    "rocketmq": "5.5.0",
    "toxiproxy": "2.12.0",
    "side": "1",
}
#: Databases that consumers change, by the Debian release they come with. Got when an experiment first needs one.
STORES: Mapping[str, str] = {"postgresql": "17", "mariadb": "11.8", "redis": "8.0"}
#: Versions that were built and started; others of Kafka and RocketMQ may build, others of RabbitMQ can be pulled only.
VERSIONS: Mapping[str, tuple[str, ...]] = {
    "rabbitmq": ("4.0.5", "3.10.8", "3.8.9"),
    "kafka": ("4.3.1", "3.9.2"),
    "rocketmq": ("5.5.0", "5.3.3"),
    "toxiproxy": (DEFAULTS["toxiproxy"],),
    "side": (DEFAULTS["side"],),
    **{product: (version,) for product, version in STORES.items()},
}
#: Debian release whose package is that version of RabbitMQ.
_RABBITMQ_SUITES = {"4.0.5": "trixie", "3.10.8": "bookworm", "3.8.9": "bullseye"}
_OFFICIAL = {"rabbitmq": "rabbitmq:{}", "kafka": "apache/kafka:{}", "rocketmq": "apache/rocketmq:{}"}

LABEL_IMAGE = "brokerproof.image"
LABEL_PRODUCT, LABEL_VERSION, LABEL_PACKAGE = "brokerproof.product", "brokerproof.version", "brokerproof.package"

_DOCKERFILES = Path(__file__).parent / "dockerfiles"
_STAGE_TOOLS = "_stage"
# The host's trust is no part of what an image is made of: only build stages see it, and it differs from host to host.
_CA_BUNDLE = "ca-bundle.crt"


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
        case "postgresql":
            return Recipe("postgresql", version, recipe_for("base", "trixie"), package=f"{version}.")
        case "mariadb" | "redis":
            # These packages were renumbered once: an epoch stands before the version.
            epoch = {"mariadb": "1", "redis": "5"}[product]
            return Recipe(product, version, recipe_for("base", "trixie"), package=f"{epoch}:{version}.")
        case "clock":
            # On the older Debian: a library works with the C library it was built with and with later ones.
            return Recipe("clock", version, recipe_for("base", "bookworm"), package=version)
    raise unknown("image", product, {**DEFAULTS, **STORES})


def default_version(product: str) -> str:
    """The version that is meant where none is named."""
    known = {**DEFAULTS, **STORES}
    if product not in known:
        raise unknown("image", product, known)
    return known[product]


def official(product: str, version: str) -> str:
    """Name of the pinned official image, empty if there is none; Toxiproxy's is in no registry that engines ask unasked."""
    return _OFFICIAL[product].format(version) if product in _OFFICIAL else ""


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
    return archive(files)


def archive(files: Mapping[str, bytes]) -> IO[bytes]:
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
