"""Damaged files: cut anywhere, filled with noise, of another shape. The reader says so in one sentence; it never
crashes, and what can be read is judged."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from storybook import columns, row, told

from brokerproof.checkers.base import check
from brokerproof.errors import HistoryError
from brokerproof.history import COLUMNS, HistoryWriter, Meta, Parts, arrow_schema, read_batches, read_history

ROWS = [row(line, n) for n, line in enumerate(("ok control - error=start", "ok send a", "ok send b", "ok receive a"))]


def write(path: Path, batches: int = 3) -> bytes:
    with HistoryWriter(path, Meta(trial="t", processes=("producer", "consumer"))) as writer:
        for _ in range(batches):
            writer.write(*columns(ROWS))
    return path.read_bytes()


def look(path: Path, *, judge: bool = True) -> str:
    """How the reader took it."""
    try:
        history = read_history(path)
    except HistoryError as exc:
        return "refused" if str(exc) else "without a word"
    if judge:
        assert not [s for s in check(history).missing if "raised" in s]
    return "torn" if history.torn else "whole"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    write(path)
    history = read_history(path)
    assert (len(history), history.torn, history.meta.trial) == (12, "", "t")
    assert isinstance(history.columns, Parts)
    assert set(history.columns) == {name for name, _ in COLUMNS}
    assert len(history.columns) == len(COLUMNS)
    assert history["msg"].tolist() == [-1, 0, 1, 0] * 3
    assert [history.errors[c] for c in history["error"][:2]] == ["start", ""]
    history.release()
    assert history["pos"].tolist() == [-1] * 12


def test_cut_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    whole = write(path, batches=2)
    seen = {}
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        seen[size] = look(path, judge=size % 64 == 0)
    assert seen[0] == "refused"
    assert set(seen.values()) == {"refused", "torn", "whole"}
    # Without the end mark a stream may just have ended early: whole batches are whole.
    order = ["refused" if s == "refused" else "read" for _, s in sorted(seen.items())]
    assert order == sorted(order, reverse=True), "once the schema is there, it is never refused again"


def test_a_live_file_is_read_up_to_its_last_batch(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    with HistoryWriter(path, Meta()) as writer:
        writer.write(*columns(ROWS))
        assert len(read_history(path)) == 4


@pytest.mark.parametrize("seed", range(4))
def test_noise_in_the_file(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "history.arrow"
    whole = write(path)
    noise = random.Random(seed)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(noise.choice((1, 2, 8, 40))):
            damaged[noise.randrange(len(damaged))] = noise.randrange(256)
        path.write_bytes(damaged)
        assert look(path) in ("refused", "torn", "whole")


def test_nothing_but_noise(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    noise = random.Random(1)
    for size in (1, 7, 8, 9, 64, 4096):
        path.write_bytes(noise.randbytes(size))
        assert look(path) == "refused"
    path.write_bytes(b"ARROW1\0\0" + noise.randbytes(100))
    assert look(path) == "refused"


def test_no_file_and_a_folder_instead_of_one(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"no history at .*nowhere"):
        read_history(tmp_path / "nowhere")
    with pytest.raises(HistoryError, match="cannot open the history"):
        next(iter(read_batches(tmp_path)))


def _stream(path: Path, schema: pa.Schema, batch: pa.RecordBatch | None = None) -> None:
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        if batch is not None:
            writer.write_batch(batch)


def test_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    _stream(path, pa.schema([("a", pa.int64())]))
    with pytest.raises(HistoryError, match="has no column 'process'"):
        read_history(path)
    right = arrow_schema(Meta())
    at = right.get_field_index("msg")
    _stream(path, right.set(at, pa.field("msg", pa.int32())))
    with pytest.raises(HistoryError, match="column 'msg' should be int64, is int32"):
        read_history(path)
    _stream(path, right.set(right.get_field_index("f"), pa.field("f", pa.string())))
    with pytest.raises(HistoryError, match="column 'f' should be a dictionary"):
        read_history(path)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"schema": 99}', '{"lanes": 3}', '{"routes": {"0": ["x"]}}', '{"seed": "x"}']
)
def test_metadata_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    path = tmp_path / "history.arrow"
    _stream(path, arrow_schema(Meta()).with_metadata({"brokerproof": text}))
    with pytest.raises(HistoryError, match="metadata"):
        read_history(path)


def test_no_metadata_at_all_and_bare_lane_numbers_as_routes(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    _stream(path, arrow_schema(Meta()).remove_metadata())
    assert read_history(path).meta == Meta()
    _stream(path, arrow_schema(Meta()).with_metadata({"brokerproof": '{"routes": {"0": [1, 2]}}'}))
    assert read_history(path).meta.routes == {"0": ({"lane": 1, "must": False}, {"lane": 2, "must": False})}


def _foreign(path: Path, *, f: list[str], dictionary: list[str], errors: list[str]) -> None:
    """As another writer would: dictionaries in another order, other widths of codes, columns in another order."""
    data = {name: pa.array(np.full(len(f), -1, dtype=kind)) for name, kind in COLUMNS}
    data["msg"] = pa.array([0] * len(f), pa.int64())
    for name, texts, values in (
        ("f", dictionary, f),
        ("outcome", ["info", "ok"], ["ok"] * len(f)),
        ("error", ["", *errors], [*errors, *[""] * len(f)][: len(f)]),
    ):
        places = {text: n for n, text in enumerate(texts)}
        codes = pa.array([places[v] for v in values], pa.int32())
        data[name] = pa.DictionaryArray.from_arrays(codes, pa.array(texts))
    names = sorted(data)
    _stream(
        path,
        pa.record_batch([data[n] for n in names], names=names).schema,
        pa.record_batch([data[n] for n in names], names=names),
    )


def test_dictionaries_of_another_order_and_functions_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    _foreign(path, f=["send", "receive", "teleport"], dictionary=["teleport", "receive", "send"], errors=["x"])
    history = read_history(path)
    assert history["f"].tolist() == [0, 1, -1]
    assert history["outcome"].tolist() == [0, 0, 0]
    finding = check(history)
    assert any("does not know" in sentence for sentence in finding.missing)
    assert finding.operations == 2


def test_a_null_tears_the_file_there(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    schema = arrow_schema(Meta())
    arrays = [pa.array([None], f.type) for f in schema]
    loose = pa.schema([pa.field(f.name, f.type) for f in schema])
    _stream(path, loose, pa.record_batch(arrays, schema=loose))
    assert "nulls" in read_history(path).torn


def test_more_error_classes_than_codes(tmp_path: Path) -> None:
    path = tmp_path / "history.arrow"
    texts = [f"E{n}" for n in range(40_000)]
    n = len(texts)
    _foreign(path, f=["send"] * n, dictionary=["send"], errors=texts)
    history = read_history(path)
    assert len(history.errors) == 1 << 15
    assert history["error"].min() == 1
    assert not [s for s in check(history).missing if "raised" in s]


def test_a_told_history_needs_no_file() -> None:
    history = told("ok send a", "ok receive a")
    assert len(history.parts) == 1
    history.release()
    assert len(history) == 2
