"""Reads a bundle that somebody else made, and trusts nothing in it.

The tar is read by its blocks and not by a library's ``extractall``: a member is a plain file at a path below the one folder
of the bundle, or the bundle is refused. Links, devices, absolute paths, ``..``, a path that comes twice, more octets than the
list at the bundle's begin names, and lists that name more than ``Limits`` allow never reach the disk.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from brokerproof.bundling import MANIFEST, PATH_CHARS_MAX, SCHEMA, is_plain_path
from brokerproof.errors import EnvironmentProblem, HarnessError, UsageError

_BLOCK = 512
_CHUNK = 1 << 20


class BundleRefused(HarnessError):
    """A bundle that is damaged, is not what it says, or would do harm; nothing of it is to be trusted."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """octets: of all files together, unpacked.  manifest_octets: of ``bundle.json``.  path_chars: of one path."""

    octets: int = 64 << 30
    files: int = 500_000
    manifest_octets: int = 256 << 20
    path_chars: int = PATH_CHARS_MAX
    extended_octets: int = 1 << 16


@dataclass(frozen=True, slots=True)
class Member:
    path: str
    octets: int
    sha256: str


def unpack(bundle: Path, into: Path, limits: Limits | None = None) -> tuple[Path, Mapping[str, Any]]:
    """Writes the bundle's files below ``into`` (an empty folder) while it compares them with the list.

    Returns the run's folder and the list. Raises BundleRefused, with the member at fault; what was written until then stays, for
    the caller to remove. O(octets), a mebibyte of them in memory.
    """
    limits = limits or Limits()
    if not bundle.is_file():
        raise UsageError(f"{str(bundle)!r} is no file; a bundle is what `brokerproof bundle RUN` writes")
    try:
        with _opened(bundle) as stream:
            return _unpacked(_Tar(stream, bundle, limits), into, limits)
    except (zlib.error, gzip.BadGzipFile, EOFError, pa.ArrowException) as exc:
        raise _damaged(bundle, exc) from exc
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as exc:
        raise BundleRefused(f"bundle {str(bundle)!r}: one path is a file and a folder: {exc.filename!r}") from exc
    except OSError as exc:
        if exc.errno is None:  # Arrow's own, of a stream that it cannot unpack
            raise _damaged(bundle, exc) from exc
        raise EnvironmentProblem(f"unpacking {str(bundle)!r} into {str(into)!r}: {exc}") from exc


def _damaged(bundle: Path, exc: Exception) -> BundleRefused:
    return BundleRefused(f"bundle {str(bundle)!r} is damaged: {str(exc).splitlines()[0] if str(exc) else repr(exc)}")


def _opened(bundle: Path) -> IO[bytes]:
    with bundle.open("rb") as file:
        begin = file.read(4)
    if begin[:2] == b"\x1f\x8b":
        return gzip.open(bundle, "rb")  # type: ignore[return-value]  # read like any file
    if begin == b"\x28\xb5\x2f\xfd":
        return pa.input_stream(str(bundle), compression="zstd")  # type: ignore[no-any-return]
    raise BundleRefused(
        f"bundle {str(bundle)!r} is neither Zstandard nor gzip: it begins with {begin.hex(' ') or 'nothing'}"
    )


def _unpacked(tar: _Tar, into: Path, limits: Limits) -> tuple[Path, Mapping[str, Any]]:
    members = tar.members()
    first = next(members, None)
    if first is None:
        raise BundleRefused(f"bundle {str(tar.name)!r} is empty")
    top, _, rest = first[0].partition("/")
    if rest != MANIFEST or "/" in first[0].removesuffix(f"/{MANIFEST}"):
        raise BundleRefused(f"bundle {str(tar.name)!r}: expected <run>/{MANIFEST} first, got {first[0]!r}")
    _checked(top, f"bundle {str(tar.name)!r}")
    if first[1] > limits.manifest_octets:
        raise BundleRefused(
            f"bundle {str(tar.name)!r}: its list has {first[1]:,} octets, more than {limits.manifest_octets:,}"
        )
    raw = b"".join(tar.content(first[1]))
    manifest, listed = _list(raw, top, tar.name, limits)
    folder = into / top
    folder.mkdir()
    (folder / MANIFEST).write_bytes(raw)
    for name, octets in members:
        path = _inside(name, top, tar.name)
        member = listed.pop(path, None)
        if member is None:
            raise BundleRefused(f"bundle {str(tar.name)!r}: {path!r} is not in its list, or comes twice")
        if octets != member.octets:
            raise BundleRefused(
                f"bundle {str(tar.name)!r}: {path!r} has {octets:,} octets; its list says {member.octets:,}"
            )
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with file.open("xb") as out:
            for part in tar.content(octets):
                digest.update(part)
                out.write(part)
        if digest.hexdigest() != member.sha256:
            raise BundleRefused(f"bundle {str(tar.name)!r}: {path!r} is not the file that its list names: SHA-256 {digest.hexdigest()}, "
                                f"not {member.sha256}")  # fmt: skip
    if listed:
        some = ", ".join(repr(path) for path in sorted(listed)[:3])
        raise BundleRefused(f"bundle {str(tar.name)!r} lacks {len(listed)} files of its list: {some}")
    return folder, manifest


def members_of(manifest: Mapping[str, Any], where: object) -> dict[str, Member]:
    """Path -> what the list says of it. Raises BundleRefused for a list that is none."""
    found: dict[str, Member] = {}
    files = manifest.get("files")
    if manifest.get("schema") != SCHEMA or not isinstance(files, list):
        raise BundleRefused(f"{where}: {MANIFEST} is of schema {manifest.get('schema')!r}; this version reads {SCHEMA}")
    for entry in files:
        try:
            member = Member(entry["path"], entry["bytes"], entry["sha256"])
        except (TypeError, KeyError) as exc:
            raise BundleRefused(f"{where}: {MANIFEST} has an entry without path, bytes or sha256") from exc
        if not (
            isinstance(member.path, str)
            and type(member.octets) is int
            and isinstance(member.sha256, str)
            and member.octets >= 0
        ):
            raise BundleRefused(f"{where}: {MANIFEST} has an entry that is none: {str(entry)[:200]}")
        _checked(member.path, where)
        if member.path in found:
            raise BundleRefused(f"{where}: {MANIFEST} names {member.path!r} twice")
        found[member.path] = member
    return found


def _list(raw: bytes, top: str, bundle: Path, limits: Limits) -> tuple[Mapping[str, Any], dict[str, Member]]:
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BundleRefused(f"bundle {str(bundle)!r}: {MANIFEST} is no JSON: {exc}") from exc
    if not isinstance(manifest, dict):
        raise BundleRefused(f"bundle {str(bundle)!r}: {MANIFEST} is no JSON object")
    listed = members_of(manifest, f"bundle {str(bundle)!r}")
    if manifest.get("run") != top:
        raise BundleRefused(
            f"bundle {str(bundle)!r}: its folder is {top!r}, its list is of run {manifest.get('run')!r}"
        )
    if len(listed) > limits.files:
        raise BundleRefused(f"bundle {str(bundle)!r} names {len(listed):,} files, more than {limits.files:,}")
    if (octets := sum(m.octets for m in listed.values())) > limits.octets:
        raise BundleRefused(
            f"bundle {str(bundle)!r} would take {octets:,} octets unpacked, more than {limits.octets:,}: --max-size"
        )
    return manifest, listed


def _checked(path: str, where: object) -> None:
    if not is_plain_path(path):
        raise BundleRefused(f"{where}: {path!r} is no path of a file inside a run")


def _inside(name: str, top: str, bundle: Path) -> str:
    if not name.startswith(f"{top}/"):
        raise BundleRefused(f"bundle {str(bundle)!r}: {name!r} is outside its folder {top!r}")
    path = name.removeprefix(f"{top}/")
    _checked(path, f"bundle {str(bundle)!r}")
    return path


class _Tar:
    """Members one after the other. name: of the bundle, for messages."""

    def __init__(self, stream: IO[bytes], name: Path, limits: Limits) -> None:
        self._stream, self.name, self._limits = stream, name, limits
        self._left = 0

    def members(self) -> Iterator[tuple[str, int]]:
        """(name, octets) of each plain file; its content has to be taken before the next."""
        extended: dict[str, str] = {}
        while True:
            if self._left:
                raise AssertionError("the content of a member was not read")  # a bug of ours
            block = self._read(_BLOCK)
            if not block.strip(b"\0"):
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as exc:
                raise BundleRefused(f"bundle {str(self.name)!r} is damaged: {exc}") from exc
            if info.type == tarfile.XHDTYPE:
                if not 0 <= info.size <= self._limits.extended_octets:  # binary sizes can be negative
                    raise BundleRefused(f"bundle {str(self.name)!r}: a member's name takes {info.size:,} octets")
                extended = self._extended(b"".join(self.content(info.size)))
                continue
            name = extended.get("path", info.name)
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                kinds = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a hard link", tarfile.DIRTYPE: "a folder",
                         tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe"}  # fmt: skip
                kind = kinds.get(info.type, f"of type {info.type!r}")
                raise BundleRefused(
                    f"bundle {str(self.name)!r}: {name[:200]!r} is {kind}; a bundle holds plain files only"
                )
            if len(name) > self._limits.path_chars:
                raise BundleRefused(f"bundle {str(self.name)!r}: a path has {len(name):,} characters")
            octets = self._size(extended.get("size"), info.size)
            extended = {}
            self._left = octets
            yield name, octets

    def content(self, octets: int) -> Iterator[bytes]:
        """The member's octets, in parts."""
        left = octets
        while left:
            part = self._read(min(_CHUNK, left))
            left -= len(part)
            yield part
        if octets % _BLOCK:
            self._read(_BLOCK - octets % _BLOCK)
        self._left = 0

    def _read(self, octets: int) -> bytes:
        parts, left = [], octets
        while left:
            part = self._stream.read(left)
            if not part:
                raise BundleRefused(
                    f"bundle {str(self.name)!r} ends early: it is truncated, or was not written to its end"
                )
            parts.append(bytes(part))
            left -= len(part)
        return b"".join(parts)

    def _extended(self, raw: bytes) -> dict[str, str]:
        """The records of a pax header, ``<length> <key>=<value>\\n``; only path and size are let pass."""
        found: dict[str, str] = {}
        while raw:
            length, _, _ = raw.partition(b" ")
            if (
                not length.isdigit()
                or len(length) > 6
                or not 0 < int(length) <= len(raw)
                or raw[int(length) - 1 : int(length)] != b"\n"
            ):
                raise BundleRefused(f"bundle {str(self.name)!r} is damaged: a pax header that is none")
            record, raw = raw[len(length) + 1 : int(length) - 1], raw[int(length) :]
            key, _, value = record.partition(b"=")
            if key not in (b"path", b"size"):
                raise BundleRefused(f"bundle {str(self.name)!r}: a member with the pax setting {key[:40]!r}")
            try:
                found[key.decode()] = value.decode()
            except UnicodeDecodeError as exc:
                raise BundleRefused(f"bundle {str(self.name)!r}: a path that is no UTF-8") from exc
        return found

    def _size(self, extended: str | None, plain: int) -> int:
        if extended is not None and (not extended.isdecimal() or len(extended) > 20):
            raise BundleRefused(f"bundle {str(self.name)!r}: a size that is none: {extended[:40]!r}")
        octets = plain if extended is None else int(extended)
        if not 0 <= octets <= self._limits.octets:
            raise BundleRefused(f"bundle {str(self.name)!r}: a member of {octets:,} octets: --max-size")
        return octets
