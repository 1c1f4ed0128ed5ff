"""``brokerproof bundle RUN``: one file that holds a run, to hand on or to publish.

    <run>/bundle.json      first: of every file its size, SHA-256 and what was redacted in it
    <run>/results.json …   every file of the run, in the order of their paths

A tar (pax), packed by Zstandard or gzip. The same run gives the same octets: paths in order, times and owners fixed, nothing
of this machine or moment in it. What is unpacked is a run folder again, which ``check``, ``explain`` and ``replay`` take.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from brokerproof import __version__
from brokerproof.errors import EnvironmentProblem, HarnessError, UsageError
from brokerproof.redacting import REPEATED_MIN, Redactor
from brokerproof.results import open_run

SCHEMA = 1
MANIFEST = "bundle.json"
SUFFIXES = (".tar.zst", ".tar.gz")
#: Of a run that lives, or of this machine; nothing of it is evidence.
_LEFT_OUT = (".lock", ".new")
_LIVING = "of a run that lives"
_SHOWN_MAX = 10
PATH_CHARS_MAX = 1024
#: 1980-01-01, the first day that every archive format knows.
_EPOCH = 315_532_800
_RULES = (
    "values of settings, arguments, headers and XML elements that are called password, secret, token, credential, access key, cookie, JAAS or the "
    "like; passwords in URLs; SASL responses; private keys; and each such value of at least "
    f"{REPEATED_MIN} characters wherever it comes again, escaped, in hexadecimal, Base64 and percent-encoding too, but for a word in small letters "
    "that names something in the run"
)


@dataclass(frozen=True, slots=True)
class Packed:
    """What came out. octets: of the bundle. redacted: path -> kind -> how many.  left_out: path and why, of what was not packed."""

    file: Path
    files: int
    octets: int
    redacted: Mapping[str, Mapping[str, int]]
    left_out: Sequence[Mapping[str, str]] = ()


def bundle(run: Path, out: Path | None = None, redacted: Path | None = None) -> Packed:
    """Packs a run that has ended. out: default ``<run>.tar.zst`` in the working folder.  redacted: a folder that the same files, without
    credentials, are left in as well; must not exist.

    Raises UsageError for what is no run, a run without results, an unknown suffix or a file that exists; EnvironmentProblem
    where the disk does not take it. What was written until then is removed.
    """
    folder = open_run(run)
    if not (run / "results.json").exists():
        raise UsageError(
            f"{str(run)!r} holds no results.json: the run has not ended; `brokerproof check {run}` folds what is there"
        )
    name = run.resolve().name
    if not is_plain_path(name):
        raise UsageError(
            f"{str(run)!r}: a bundle cannot hold a folder of this name on every system; rename it, and pack it then"
        )
    target = Path(f"{name}{SUFFIXES[0]}") if out is None else out
    if not target.name.endswith(SUFFIXES):
        raise UsageError(f"bundle {str(target)!r}: expected a name that ends with {' or '.join(SUFFIXES)}")
    if target.exists():
        raise UsageError(f"{str(target)!r} exists; name another, or remove it")
    if target.resolve().is_relative_to(run.resolve()):
        raise UsageError(f"bundle {str(target)!r} would lie inside the run that it packs; name a place outside")
    if redacted is not None and (redacted.exists() or redacted.resolve().is_relative_to(run.resolve())):
        raise UsageError(f"folder {str(redacted)!r} exists, or lies inside the run; name another")
    files, left_out = _files(folder.path)
    new = target.with_name(target.name + ".new")
    try:
        manifest, redactor = _listed(name, folder.path, files, left_out)
        with _packer(new) as sink, tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, f"{name}/{MANIFEST}", json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")
            for entry in manifest["files"]:
                data, _ = redactor.redact((folder.path / entry["path"]).read_bytes())
                if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                    raise HarnessError(f"{entry['path']!r} changed while it was packed; is the run still going on?")
                _add(tar, f"{name}/{entry['path']}", data)
                if redacted is not None:
                    file = redacted / entry["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
        new.rename(target)
    except OSError as exc:
        raise EnvironmentProblem(f"packing {str(run)!r} into {str(target)!r}: {exc}") from exc
    finally:
        new.unlink(missing_ok=True)
    found = {entry["path"]: entry["redacted"] for entry in manifest["files"] if entry["redacted"]}
    return Packed(target, len(files), target.stat().st_size, found, tuple(manifest["left_out"]))


def is_plain_path(path: str) -> bool:
    """Whether it is a relative path that every system can hold: what a bundle holds, and what is taken out of one. No ``..``, no
    backslash, control character or half a surrogate pair, no part of more than 255 octets, not the list itself."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not (
        path != "/".join(parts) or path.startswith("/") or ".." in parts or parts[0] == MANIFEST or len(path) > PATH_CHARS_MAX
        or any(c == "\\" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in path)
        or any(len(part.encode()) > 255 for part in parts)
    )  # fmt: skip


def _files(run: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Paths of what is packed, in order, and what is left out with the reason."""
    files, left_out = [], []
    for path in sorted(run.rglob("*"), key=lambda p: p.relative_to(run).as_posix()):
        name = path.relative_to(run).as_posix()
        if path.is_symlink():
            left_out.append({"path": name, "why": "a link"})
        elif path.is_dir() or name == MANIFEST:
            continue
        elif not path.is_file():
            left_out.append({"path": name, "why": "no plain file"})
        elif not is_plain_path(name):
            # Who takes it out refuses such a name, and with it the whole bundle.
            left_out.append({"path": ascii(name)[1:-1], "why": "a name that not every system can hold"})
        elif path.suffix in _LEFT_OUT:
            left_out.append({"path": name, "why": _LIVING})
        else:
            files.append(name)
    return files, left_out


def _listed(name: str, run: Path, files: list[str], left_out: list[dict[str, str]]) -> tuple[dict[str, Any], Redactor]:
    redactor = Redactor()
    for path in files:
        redactor.learn((run / path).read_bytes())
    entries = []
    for path in files:
        data, counts = redactor.redact((run / path).read_bytes())
        entries.append(
            {
                "path": path,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "redacted": dict(sorted(counts.items())),
            }
        )
    manifest = {
        "schema": SCHEMA, "what": "brokerproof bundle", "run": name, "tool": __version__, "redaction": _RULES,
        "files": entries, "left_out": left_out,
    }  # fmt: skip
    return manifest, redactor


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), _EPOCH, 0o644
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    tar.addfile(info, io.BytesIO(data))


@contextmanager
def _packer(file: Path) -> Iterator[IO[bytes]]:
    """Where the tar goes; neither format writes a time or a name of its own."""
    if file.name.removesuffix(".new").endswith(".zst"):
        with pa.output_stream(str(file), compression="zstd") as sink:
            yield sink
        return
    with file.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed:
        yield packed  # type: ignore[misc]  # a GzipFile is written to like any file


def show(run: Path, out: Path | None, redacted: Path | None = None) -> int:
    """Packs and says what was done; exit code 0."""
    packed = bundle(run, out, redacted)
    print(f"{packed.file}: {packed.files:,} files, {packed.octets / 1e6:.1f} MB")
    if packed.redacted:
        kinds: dict[str, int] = {}
        for counts in packed.redacted.values():
            for kind, n in counts.items():
                kinds[kind] = kinds.get(kind, 0) + n
        told = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        print(f"redacted in {len(packed.redacted)} files: {told}; {MANIFEST} says where")
    else:
        print("no credential was found in it")
    lost = [entry for entry in packed.left_out if entry["why"] != _LIVING]
    for entry in lost[:_SHOWN_MAX]:
        print(f"left out: {ascii(entry['path'])[1:-1]}: {entry['why']}")
    if len(lost) > _SHOWN_MAX:
        print(f"left out: {len(lost) - _SHOWN_MAX} more; {MANIFEST} lists them")
    print(f"next: brokerproof verify {packed.file} --recheck")
    return 0
