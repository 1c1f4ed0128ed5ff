"""The history of a trial: one row per operation, in ``history.arrow`` (design section 6, fixed).

    Arrow IPC *stream*; a batch at least every 200 ms; a torn last batch is readable up to it.
    Rows of one process stand in the order in which the process closed them; across processes the times order.

This file owns the columns, the reader and the writer. Nothing here knows what an anomaly is.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brokerproof.errors import HistoryError

FUNCTIONS = (
    "send", "receive", "settle", "commit", "effect", "read", "assign", "revoke",
    "txn_begin", "txn_commit", "txn_abort", "fault", "control",
)  # fmt: skip
OUTCOMES = ("ok", "fail", "info")
F = {name: code for code, name in enumerate(FUNCTIONS)}
OK, FAIL, INFO = range(3)
OUTCOME = {name: code for code, name in enumerate(OUTCOMES)}
#: Process number of the fault injector and of the recorder's own ``control`` rows.
INJECTOR = -1
#: ``msg`` of a body that could not be read.
UNREADABLE = -2
METADATA_KEY = b"brokerproof"
SCHEMA_VERSION = 1

#: Numeric width of every column, in file order; dictionary columns by their codes.
COLUMNS: tuple[tuple[str, type[np.generic]], ...] = (
    ("process", np.int32),
    ("f", np.int8),
    ("outcome", np.int8),
    ("start_ns", np.int64),
    ("end_ns", np.int64),
    ("due_ns", np.int64),
    ("msg", np.int64),
    ("key", np.int32),
    ("lane", np.int32),
    ("pos", np.int64),
    ("attempt", np.int16),
    ("batch", np.int32),
    ("value", np.int64),
    ("error", np.int16),
)
ROW_BYTES = sum(np.dtype(kind).itemsize for _, kind in COLUMNS)
#: How many error classes the int16 codes can tell apart.
_TEXTS_MAX = 1 << 15
_DICTIONARIES = {"f": pa.int8(), "outcome": pa.int8(), "error": pa.int16()}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What the schema metadata says: everything a checker needs that is not an operation.

    lanes: name and kind (``log`` or ``queue``) of each lane, by lane number.
    routes: lane -> lanes that its messages may (or must) reach as well, each ``{"lane": n, "must": bool}``;
        a lane that is not listed leads to itself, once.
    processes: role of each client slot (``producer``, ``consumer``, ``reader``); process = slot + generation x slots.
    groups: consumer group of each slot, or empty; lost and duplicated are then judged per group.
    """

    schema: int = SCHEMA_VERSION
    trial: str = ""
    seed: int = 0
    broker: str = ""
    version: str = ""
    lanes: tuple[Mapping[str, str], ...] = ()
    routes: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    processes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema, "trial": self.trial, "seed": self.seed, "broker": self.broker,
            "version": self.version, "lanes": [dict(lane) for lane in self.lanes],
            "routes": {k: [dict(r) for r in v] for k, v in self.routes.items()},
            "processes": list(self.processes), "groups": list(self.groups),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Meta:
        """Unknown keys are ignored; a missing one takes its default. Raises HistoryError for a newer schema."""
        if not isinstance(data, Mapping):
            raise HistoryError(f"history metadata: expected a JSON object, got {type(data).__name__}")
        schema = data.get("schema", SCHEMA_VERSION)
        if not isinstance(schema, int) or schema > SCHEMA_VERSION:
            raise HistoryError(
                f"history metadata: schema {schema!r} is newer than {SCHEMA_VERSION}; check it with a newer brokerproof"
            )
        return cls(
            schema=schema,
            trial=str(data.get("trial", "")),
            seed=int(data.get("seed", 0)),
            broker=str(data.get("broker", "")),
            version=str(data.get("version", "")),
            lanes=tuple(dict(lane) for lane in data.get("lanes", ())),
            routes={str(k): tuple(_route(r) for r in v) for k, v in dict(data.get("routes", {})).items()},
            processes=tuple(str(p) for p in data.get("processes", ())),
            groups=tuple(str(g) for g in data.get("groups", ())),
        )


def _route(route: Any) -> dict[str, Any]:
    """A bare lane number, as other writers put it, is a lane that messages may reach."""
    return {"lane": route, "must": False} if isinstance(route, int) else dict(route)


def arrow_schema(meta: Meta) -> pa.Schema:
    """The fixed schema, with ``meta`` as JSON under the key ``brokerproof``."""
    fields = []
    for name, kind in COLUMNS:
        index = _DICTIONARIES.get(name)
        arrow = pa.dictionary(index, pa.string()) if index is not None else pa.from_numpy_dtype(np.dtype(kind))
        fields.append(pa.field(name, arrow, nullable=False))
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(meta.to_json(), sort_keys=True).encode()})


class HistoryWriter:
    """Appends batches of columns to a stream; each ``write`` ends with a flush, so a kill loses no whole batch."""

    def __init__(self, sink: IO[bytes] | Path, meta: Meta) -> None:
        self._own = isinstance(sink, Path)
        self._sink: IO[bytes] = sink.open("wb") if isinstance(sink, Path) else sink
        self._schema = arrow_schema(meta)
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._writer = pa.ipc.new_stream(self._sink, self._schema, options=options)
        self.rows = 0

    def write(self, columns: Mapping[str, Array], errors: Sequence[str]) -> None:
        """columns: one array per column, dictionary columns as codes; ``errors[0]`` is the empty text.

        errors: the texts that the codes of ``error`` point into; may only grow from call to call.
        """
        dictionaries = {"f": FUNCTIONS, "outcome": OUTCOMES, "error": list(errors)}
        arrays: list[pa.Array] = []
        for name, kind in COLUMNS:
            values = np.ascontiguousarray(columns[name], dtype=kind)
            if name in dictionaries:
                texts = pa.array(dictionaries[name], pa.string())
                arrays.append(pa.DictionaryArray.from_arrays(pa.array(values), texts))
            else:
                arrays.append(pa.array(values))
        batch = pa.record_batch(arrays, schema=self._schema)
        self._writer.write_batch(batch)
        self._sink.flush()
        self.rows += batch.num_rows

    def close(self) -> None:
        self._writer.close()
        self._sink.flush()
        if self._own:
            self._sink.close()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Parts(Mapping[str, Array]):
    """Columns that lie in pieces, one piece per batch, mapped from the file. A column is joined when it is asked for.

    Whoever goes through the pieces itself copies only what it needs, and then lets go of the pages with ``release``:
    a history of two gigabytes need not be in memory at once.
    """

    def __init__(self, parts: Sequence[Mapping[str, Array]], release: Callable[[], None]) -> None:
        self.parts = tuple(parts)
        self.release = release
        self.rows = sum(len(part["process"]) for part in parts)
        self._joined: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._joined:
            pieces = [part[name] for part in self.parts]
            if not pieces:
                pieces = [np.empty(0, dtype=dict(COLUMNS)[name])]
            self._joined[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return self._joined[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


@dataclass(frozen=True, slots=True)
class History:
    """A whole history as numpy columns. Dictionary columns hold the codes of this file (``F``, ``OUTCOMES``);
    ``errors`` are the texts of the ``error`` codes. ``torn`` says why the tail could not be read, or is empty."""

    meta: Meta
    columns: Mapping[str, Array]
    errors: tuple[str, ...]
    torn: str = ""

    def __len__(self) -> int:
        return self.columns.rows if isinstance(self.columns, Parts) else len(self.columns["process"])

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    @property
    def parts(self) -> tuple[Mapping[str, Array], ...]:
        """The columns in the pieces in which they lie in memory."""
        return self.columns.parts if isinstance(self.columns, Parts) else (self.columns,)

    def release(self) -> None:
        """Lets the system take back the pages of the file; they come back by themselves when they are touched."""
        if isinstance(self.columns, Parts):
            self.columns.release()


def read_batches(path: Path) -> Iterator[Meta | tuple[dict[str, Array], tuple[str, ...]] | str]:
    """Yields the Meta, then (columns, error texts) per batch with codes translated to this file's, then, if the
    tail is torn, a sentence that says so. Raises HistoryError when not even the schema can be read."""
    return _batches(_mapped(path), path)


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except FileNotFoundError:
        raise HistoryError(f"no history at {str(path)!r}; a trial folder holds history.arrow") from None
    except ValueError as exc:  # nothing can be mapped from a file without bytes
        raise HistoryError(f"the history {str(path)!r} is an empty file; its recorder wrote not even a schema") from exc
    except OSError as exc:
        raise HistoryError(f"cannot open the history {str(path)!r}: {exc}") from exc


def _batches(mapped: mmap.mmap, path: Path) -> Iterator[Meta | tuple[dict[str, Array], tuple[str, ...]] | str]:
    try:
        reader = pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(mapped)))
        schema = reader.schema
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise HistoryError(
            f"{str(path)!r} does not start with an Arrow IPC stream schema: {_line(exc)}; nothing could be read"
        ) from exc
    try:
        meta = _meta_of(schema, path)
    except UnicodeDecodeError as exc:
        raise HistoryError(f"{str(path)!r}: the schema is damaged: {_line(exc)}") from exc
    yield meta
    places = {name: schema.get_field_index(name) for name, _ in COLUMNS}
    texts = _Texts()
    while True:
        try:
            batch = reader.read_next_batch()
            # Lengths of buffers: without this a damaged file is a wild read. Codes beyond a dictionary: ``_decode``.
            batch.validate()
            decoded = _decode(batch, places, texts)
        except StopIteration:
            return
        except (pa.ArrowException, OSError, ValueError, IndexError) as exc:
            yield f"the tail of {path.name} is torn: {_line(exc)}"
            return
        yield decoded


def read_history(path: Path) -> History:
    """The whole history; its columns stay in the file until they are used."""
    meta = Meta()
    parts: list[dict[str, Array]] = []
    errors: list[str] = [""]
    known: dict[str, int] = {"": 0}
    torn = ""
    mapped = _mapped(path)
    for item in _batches(mapped, path):
        if isinstance(item, Meta):
            meta = item
        elif isinstance(item, str):
            torn = item
        else:
            columns, texts = item
            if list(texts) != errors[: len(texts)]:
                for text in texts:
                    if text not in known and len(errors) < _TEXTS_MAX:
                        known[text] = len(errors)
                        errors.append(text)
                # Beyond what an int16 can number, error classes share the last one.
                table = np.array([known.get(text, len(errors) - 1) for text in texts], dtype=np.int16)
                columns["error"] = table[columns["error"]]
            if len(columns["process"]):
                parts.append(columns)

    def release() -> None:
        mapped.madvise(mmap.MADV_DONTNEED)

    return History(meta, Parts(parts, release), tuple(errors), torn)


def _line(exc: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _meta_of(schema: pa.Schema, path: Path) -> Meta:
    have = {f.name: f.type for f in schema}
    for name, kind in COLUMNS:
        if name not in have or schema.get_field_index(name) < 0:  # below zero: there are two of them
            raise HistoryError(f"{str(path)!r} has no column {name!r}; it is not a brokerproof history")
        got = have[name].index_type if pa.types.is_dictionary(have[name]) else have[name]
        if name not in _DICTIONARIES and got != pa.from_numpy_dtype(np.dtype(kind)):
            raise HistoryError(f"{str(path)!r}: column {name!r} should be {np.dtype(kind)}, is {have[name]}")
        if name in _DICTIONARIES and not pa.types.is_dictionary(have[name]):
            raise HistoryError(f"{str(path)!r}: column {name!r} should be a dictionary of strings, is {have[name]}")
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        return Meta()
    try:
        return Meta.from_json(json.loads(raw))
    except (ValueError, TypeError, AttributeError) as exc:
        raise HistoryError(f"{str(path)!r}: the metadata under {METADATA_KEY.decode()!r} is not valid: {exc}") from exc


class _Texts:
    """The texts of a dictionary; a batch mostly brings the same dictionary as the one before, so they are kept."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[pa.Array, tuple[str, ...]]] = {}

    def of(self, name: str, dictionary: pa.Array) -> tuple[str, ...]:
        last = self._last.get(name)
        if last is None or not last[0].equals(dictionary):
            dictionary.validate(full=True)
            last = dictionary, tuple(str(text) for text in dictionary.to_pylist())
            self._last[name] = last
        return last[1]


def _decode(
    batch: pa.RecordBatch, places: Mapping[str, int], known_texts: _Texts
) -> tuple[dict[str, Array], tuple[str, ...]]:
    columns: dict[str, Array] = {}
    errors: tuple[str, ...] = ("",)
    for name, kind in COLUMNS:
        column = batch.column(places[name])
        if column.null_count:
            raise ValueError(f"column {name!r} has {column.null_count} nulls; a history has none")
        if name not in _DICTIONARIES:
            columns[name] = column.to_numpy(zero_copy_only=False)
            continue
        texts = known_texts.of(name, column.dictionary)
        codes = column.indices.to_numpy(zero_copy_only=False)
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(texts):
            raise IndexError(f"column {name!r} has codes beyond its dictionary of {len(texts)} texts")
        if name == "error":
            errors = texts or ("",)
            columns[name] = codes if len(texts) > _TEXTS_MAX else codes.astype(kind, copy=False)
            continue
        ours = FUNCTIONS if name == "f" else OUTCOMES
        if texts == ours[: len(texts)]:
            columns[name] = codes.astype(kind, copy=False)
        else:
            # A text that we do not know becomes -1: no checker selects it, so a newer function never misleads.
            known: Mapping[str, int] = F if name == "f" else OUTCOME
            columns[name] = np.array([known.get(text, -1) for text in texts] or [-1], dtype=kind)[codes]
    return columns, errors
