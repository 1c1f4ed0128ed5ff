"""Finds messages in the files of a node, by the octets that their bodies begin with (``message.mark``).

What stands around a hit is the product's to read: it gives a ``Reader``, a pure function from one file to the places in
it. Bounded in bytes and in time; what was not looked through is said and never taken for empty.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Protocol

from brokerproof.errors import HarnessError
from brokerproof.where import NOT_THERE, Where

#: Read of one node at most; what a trial writes is a small part of it.
BYTES_MAX = 384 << 20
#: Copies of one message that are told of one node.
COPIES_MAX = 8

Json = Mapping[str, Any]


class NotRead(Exception):
    """Why a file, or the rest of a node, was not looked through."""


class Files(Protocol):
    """A node whose files can be read: ``runtime.node.ContainerNode``."""

    def files(self, folder: str) -> Iterator[tuple[str, int, IO[bytes]]]: ...


class Hits:
    """Where in some bytes the marks are."""

    def __init__(self, marks: Collection[bytes]) -> None:
        self._pattern = re.compile(b"|".join(map(re.escape, sorted(marks))) or b"(?!)", re.DOTALL)

    def __call__(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """(mark, byte), by place."""
        return ((hit.group(), hit.start()) for hit in self._pattern.finditer(data))


#: ``read(path, data, hits)``: a mark and its place for each hit in the file. May raise NotRead.
Reader = Callable[[str, bytes, Hits], Iterable[tuple[bytes, Json]]]


def plain(path: str, data: bytes, hits: Hits) -> Iterator[tuple[bytes, Json]]:
    """The Reader that knows of no format: file and byte."""
    return ((mark, {"file": path, "byte": at}) for mark, at in hits(data))


def seek(
    node: Files, folders: Sequence[str], marks: Collection[bytes], *, read: Reader, deadline: float,
    wanted: Callable[[str], bool] = lambda path: True,
) -> dict[bytes, Where]:  # fmt: skip
    """Looks through the wanted files below these folders.

    wanted: by path, which begins with the folder's last part.  deadline: of ``time.monotonic``.
    """
    hits = Hits(marks)
    found: dict[bytes, list[Json]] = {mark: [] for mark in marks}
    reasons: dict[str, None] = {}
    left, files = BYTES_MAX, 0
    try:
        for folder in folders:
            for path, size, content in node.files(folder):
                if not wanted(path):
                    continue
                if time.monotonic() > deadline:
                    raise NotRead("time was up")
                data = content.read(min(size, left))
                files += 1
                left -= len(data)
                try:
                    for mark, place in read(path, data, hits):
                        if len(found[mark]) < COPIES_MAX:
                            found[mark].append(place)
                except NotRead as exc:
                    reasons[f"{path}: {exc}"] = None
                if len(data) < size:
                    raise NotRead(f"only the first {BYTES_MAX >> 20} MiB were read")
    except (NotRead, HarnessError) as exc:
        reasons[str(exc)] = None
    nothing = NOT_THERE if files else f"{NOT_THERE}: it has no files of that kind"
    says = f"not looked: {'; '.join(reasons)}" if reasons else ""
    return {mark: Where(tuple(places), says or ("" if places else nothing)) for mark, places in found.items()}
