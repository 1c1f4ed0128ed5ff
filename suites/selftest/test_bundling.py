"""A run in one file: the same octets each time, no credentials, what verify sees, and bundles that mean harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from brokerproof import bundling
from brokerproof.bundling import bundle
from brokerproof.errors import UsageError
from brokerproof.gating import results_of
from brokerproof.history import F, HistoryWriter, read_history
from brokerproof.results import load_json, write_json
from brokerproof.unpacking import BundleRefused, Limits, unpack
from brokerproof.verifying import show, verify

SECRET = "hunter2-Tr0ub4dor"


@pytest.fixture
def run(sound_run: Path, tmp_path: Path) -> Path:
    """A run that may be changed."""
    return Path(shutil.copytree(sound_run, tmp_path / "20261122T000000Z-5"))


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def raw(file: Path) -> bytes:
    """The tar inside."""
    if file.name.endswith(".gz"):
        return gzip.decompress(file.read_bytes())
    with pa.input_stream(str(file), compression="zstd") as stream:
        return bytes(stream.read())


# -- packing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar.zst", ".tar.gz"])
def test_the_same_run_gives_the_same_octets(run: Path, tmp_path: Path, suffix: str) -> None:
    bundle(run, tmp_path / f"one{suffix}")
    for file in run.rglob("*"):
        os.utime(file, (1, 1))
    elsewhere = tmp_path / "moved" / run.name
    shutil.copytree(run, elsewhere)
    bundle(elsewhere, tmp_path / f"two{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(raw(tmp_path / f"one{suffix}"))) as tar:
        names = [m.name for m in tar]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(315532800, 0, 0, "", "", 0o644)}
    assert names[0] == f"{run.name}/bundle.json"
    assert names[1:] == sorted(names[1:])
    assert not any(name.endswith(".lock") for name in names)


def test_credentials_stay_at_home_and_the_list_says_so(run: Path, tmp_path: Path) -> None:
    facts = load_json(run / "run.json")
    facts["brokers"]["mine"] = {"settings": {"url": f"amqps://app:{SECRET}@mq.example", "sasl.password": SECRET}}
    write_json(run / "run.json", facts)
    (run / "logs" / "client.log").write_text(f"login of app with {SECRET} took 3 ms\nAuthorization: Bearer {SECRET}\n")
    (run / "logs" / "wire.log").write_text((b"\0app\0" + SECRET.encode()).hex())
    trial = next((run / "trials").iterdir())
    history = read_history(trial / "history.arrow")
    plan = load_json(trial / "plan.json")
    write_json(trial / "plan.json", plan | {"broker_settings": {"password": SECRET}})
    (run / "logs" / "core.bin").write_bytes(b"\0\0" + SECRET.encode() + b"\0")

    packed = bundle(run, tmp_path / "b.tar.gz")
    inside = raw(packed.file)
    for form in (SECRET.encode(), SECRET.encode().hex().encode()):
        assert form not in inside
    folder, manifest = unpack(packed.file, _empty(tmp_path / "out"))
    listed = {e["path"]: e["redacted"] for e in manifest["files"] if e["redacted"]}
    assert listed == {
        "run.json": {"credential setting": 1, "password in a URL": 1},
        "logs/client.log": {"authorization header": 1, "known value again": 1},
        "logs/wire.log": {"known value again": 1},
        "logs/core.bin": {"known value again": 1},
        f"trials/{trial.name}/plan.json": {"credential setting": 1},
    }
    assert "passwords in URLs" in manifest["redaction"]
    assert load_json(folder / "run.json")["brokers"]["mine"]["settings"] == {
        "url": "amqps://app:[redacted]@mq.example", "sasl.password": "[redacted]",
    }  # fmt: skip
    assert len(read_history(folder / "trials" / trial.name / "history.arrow")) == len(history)
    assert verify(folder, recheck=True, listed=True).wrong == []


def test_links_are_left_out_and_named(run: Path, tmp_path: Path) -> None:
    (run / "logs" / "passwd").symlink_to("/etc/passwd")
    packed = bundle(run, tmp_path / "b.tar.gz")
    assert b"root:" not in raw(packed.file)
    (tmp_path / "out").mkdir()
    _, manifest = unpack(packed.file, tmp_path / "out")
    assert {"path": "logs/passwd", "why": "a link"} in manifest["left_out"]


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ends with"):
        bundle(run, tmp_path / "b.zip")
    with pytest.raises(UsageError, match="inside the run"):
        bundle(run, run / "b.tar.gz")
    (tmp_path / "there.tar.gz").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        bundle(run, tmp_path / "there.tar.gz")
    (run / "results.json").unlink()
    with pytest.raises(UsageError, match="has not ended"):
        bundle(run, tmp_path / "c.tar.gz")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["there.tar.gz"]


# -- verifying ---------------------------------------------------------------------------------------------------------


def test_a_bundle_and_what_is_unpacked_from_it_agree(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = bundle(run, tmp_path / "b.tar.zst")
    assert show(packed.file, recheck=True, unpack_to=tmp_path / "out", octets_max=None) == 0
    said = capsys.readouterr().out
    assert "everything agrees" in said and "2 verdicts judged again" in said
    assert show(tmp_path / "out" / run.name, recheck=False, unpack_to=None, octets_max=None) == 0
    assert f"{packed.files:,} files by SHA-256" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [run.name]


def _edit(file: Path, change: Callable[[Any], None]) -> None:
    data = load_json(file)
    change(data)
    write_json(file, data)


def _cell(run: Path, change: Callable[[Any], None]) -> None:
    """Changes the first verdict where both files have it, as a careful forger does."""
    slug = load_json(run / "results.json")["claims"][0]["slug"]
    _edit(run / "cells" / f"{slug}.json", change)
    _edit(run / "results.json", lambda r: change(r["claims"][0]))


def _trial(run: Path) -> Path:
    return run / "trials" / load_json(run / "results.json")["claims"][0]["treatment"]["trial_ids"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: shutil.rmtree(_trial(run)), "is missing"),
        (lambda run: (_trial(run) / "history.arrow").unlink(), "lacks history.arrow"),
        (lambda run: (_trial(run) / "findings.json").unlink(), "lacks findings.json"),
        (lambda run: (_trial(run) / "history.arrow").write_bytes(b"ARROW1?"), "trial"),
        (lambda run: (run / "results.json").unlink(), "results.json is missing"),
        (lambda run: next((run / "cells").glob("*.json")).unlink(), "is missing"),
        (lambda run: _edit(run / "results.json", lambda r: r["claims"][0].update(verdict="HOLDS!")), "differ"),
        (lambda run: _edit(run / "results.json", lambda r: r["claims"].append(r["claims"][0])), "twice"),
        (lambda run: _edit(run / "results.json", lambda r: r["claims"][0].update(treatment=7)), "not of the form"),
        (lambda run: _edit(run / "results.json", lambda r: r.update(claims={})), "no list of claims"),
        (lambda run: _cell(run, lambda c: c.update(as_expected=False)), "said to be as expected"),
        (lambda run: _cell(run, lambda c: c["treatment"].update(trials=20)), "names 1"),
        (lambda run: _cell(run, lambda c: c["treatment"].update(wilson95=[0.0, 0.1])), "is not the interval"),
        (lambda run: _cell(run, lambda c: c["treatment"].update(trial_ids=["../../etc"])), "is no name"),
        (lambda run: _edit(_trial(run) / "findings.json", lambda f: f.update(operations=1)), "operations"),
        (lambda run: shutil.copy(_other(run) / "history.arrow", _trial(run)), "its history is of"),
    ],
)  # fmt: skip
def test_what_is_missing_or_contradicts_is_named(run: Path, change: Callable[[Path], None], said: str) -> None:
    assert verify(run).wrong == []
    change(run)
    wrong = verify(run).wrong
    assert any(said in sentence for sentence in wrong), wrong


def _other(run: Path) -> Path:
    return next(t for t in sorted((run / "trials").iterdir()) if t != _trial(run))


def test_a_word_that_its_histories_do_not_bear_out_is_seen(run: Path) -> None:
    _cell(run, lambda c: c.update(verdict="VIOLATED", expected="VIOLATED"))
    assert verify(run).wrong == []
    (wrong,) = verify(run, recheck=True).wrong
    assert "says VIOLATED; its histories say HOLDS" in wrong


def test_a_history_that_was_thinned_out_is_seen(broken_run: Path, tmp_path: Path) -> None:
    """Somebody takes the bad rows out of a history, and tidies up its finding."""
    run = Path(shutil.copytree(broken_run, tmp_path / "run"))
    results = load_json(run / "results.json")
    entry = next(c for c in results["claims"] if c["verdict"] == "VIOLATED")
    assert verify(run, recheck=True).wrong == []
    trial = run / "trials" / entry["treatment"]["trial_ids"][0]
    history = read_history(trial / "history.arrow")
    received = history["f"] == F["receive"]
    first = np.zeros(len(history), bool)
    first[np.unique(np.where(received, history["msg"], -1 - np.arange(len(history))), return_index=True)[1]] = True
    kept = ~received | first
    assert not kept.all()
    with HistoryWriter(trial / "new.arrow", history.meta) as writer:
        writer.write({name: history[name][kept] for name in history.columns}, history.errors)
    (trial / "new.arrow").rename(trial / "history.arrow")
    _edit(trial / "findings.json", lambda f: f.update(operations=_operations(trial)))
    assert any("judged again" in w or "its histories say" in w for w in verify(run, recheck=True).wrong)


def _operations(trial: Path) -> int:
    from brokerproof.checkers.base import check

    return check(read_history(trial / "history.arrow")).operations


def test_an_unpacked_file_that_was_changed_added_or_taken_is_seen(run: Path, tmp_path: Path) -> None:
    packed = bundle(run, tmp_path / "b.tar.gz")
    (tmp_path / "out").mkdir()
    folder, _ = unpack(packed.file, tmp_path / "out")
    assert verify(folder).wrong == []
    (folder / "summary.md").write_text("all is well")
    (folder / "junit.xml").unlink()
    (folder / "more.txt").write_text("")
    wrong = " | ".join(verify(folder).wrong)
    assert (
        "summary.md was changed" in wrong and "junit.xml is missing" in wrong and "more.txt is not in the list" in wrong
    )


def test_a_name_that_not_every_system_can_hold_is_left_out_and_said(
    sound_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(sound_run, tmp_path / "run"))
    odd = ["a\\b.log", "line 1\nline 2.log", "\udcff.log", "tab\t.log"]
    for name in odd:
        (run / "logs" / name).write_text("x")
    assert bundling.show(run, tmp_path / "b.tar.gz") == 0
    said = capsys.readouterr().out
    assert said.count("left out: logs/") == len(odd) and "a name that not every system can hold" in said
    (tmp_path / "out").mkdir()
    folder, manifest = unpack(tmp_path / "b.tar.gz", tmp_path / "out")
    assert len(manifest["left_out"]) >= len(odd) and verify(folder).wrong == []
    with pytest.raises(UsageError, match="rename it"):
        bundle(Path(shutil.copytree(sound_run, tmp_path / "r\\un")), tmp_path / "c.tar.gz")


def test_the_redacted_folder_is_what_the_bundle_holds(run: Path, tmp_path: Path) -> None:
    """What a pipeline publishes beside the bundle, and what its gate reads."""
    results = load_json(run / "results.json")
    results["claims"][0]["reason"] = f"connecting to amqp://app:{SECRET}@host"
    write_json(run / "results.json", results)
    (run / "summary.md").write_text(f"with {SECRET}")
    packed = bundle(run, tmp_path / "b.tar.gz", tmp_path / "published")
    (tmp_path / "out").mkdir()
    folder, _ = unpack(packed.file, tmp_path / "out")
    (folder / "bundle.json").unlink()
    seen = [
        {p.relative_to(base).as_posix(): p.read_bytes() for p in base.rglob("*") if p.is_file()}
        for base in (folder, tmp_path / "published")
    ]
    assert seen[0] == seen[1] and not any(SECRET.encode() in data for data in seen[1].values())
    assert results_of(tmp_path / "published")["claims"][0]["reason"] == "connecting to amqp://app:[redacted]@host"
    with pytest.raises(UsageError, match="name another"):
        bundle(run, tmp_path / "c.tar.gz", tmp_path / "published")


def test_a_bundle_that_is_refused_leaves_no_folder(sound_run: Path, tmp_path: Path) -> None:
    file = bundle(sound_run, tmp_path / "b.tar.gz").file
    torn = tmp_path / "torn.tar.gz"
    torn.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "mine").mkdir()
    for into in ("new/deep/er", "mine/new", "mine"):
        with pytest.raises(BundleRefused):
            show(torn, recheck=False, unpack_to=tmp_path / into, octets_max=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.tar.gz", "mine", "torn.tar.gz"]
    assert list((tmp_path / "mine").iterdir()) == []
    assert show(file, recheck=False, unpack_to=tmp_path / "new" / "deep", octets_max=None) == 0
    assert (tmp_path / "new" / "deep" / sound_run.name / "results.json").exists()
    with pytest.raises(UsageError, match="cannot be made"):
        show(file, recheck=False, unpack_to=file / "x", octets_max=None)


# -- bundles that mean harm --------------------------------------------------------------------------------------------


def made(
    file: Path, members: list[tuple[tarfile.TarInfo, bytes]], listed: dict[str, bytes] | None = None, **changes: Any
) -> Path:
    """A bundle by hand. listed: path -> content as the list has it; members come after the list."""
    files = [
        {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "redacted": {}}
        for path, data in (listed or {}).items()
    ]
    manifest = {"schema": 1, "what": "brokerproof bundle", "run": "run", "files": files, **changes}
    raw_manifest = json.dumps(manifest).encode()
    with gzip.open(file, "wb") as sink, tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for info, data in [(plain("run/bundle.json", raw_manifest), raw_manifest), *members]:
            tar.addfile(info, io.BytesIO(data))
    return file


def plain(name: str, data: bytes = b"") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info


def typed(name: str, type_: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, target
    return info


X = b"x"


@pytest.mark.parametrize(
    ("members", "listed", "said"),
    [
        ([(plain("run/../../evil", X), X)], {"../../evil": X}, "no path of a file inside a run"),
        ([(plain("/etc/evil", X), X)], {"/etc/evil": X}, "no path of a file inside a run"),
        ([(plain("run/../../evil", X), X)], {"a": X}, "no path of a file inside a run"),
        ([(plain("/etc/evil", X), X)], {"a": X}, "outside its folder"),
        ([(plain("other/a", X), X)], {"a": X}, "outside its folder"),
        ([(plain("run//a", X), X)], {"a": X}, "no path of a file inside a run"),
        ([(plain("run/a\\..\\b", X), X)], {"a\\..\\b": X}, "no path of a file inside a run"),
        ([(plain("run/bundle.json", X), X)], {"a": X}, "no path of a file inside a run"),
        ([(typed("run/a", tarfile.SYMTYPE, "/etc/passwd"), b"")], {"a": b""}, "is a link"),
        ([(typed("run/a", tarfile.LNKTYPE, "/etc/passwd"), b"")], {"a": b""}, "is a hard link"),
        ([(typed("run/a", tarfile.CHRTYPE), b"")], {"a": b""}, "is a device"),
        ([(typed("run/a", tarfile.FIFOTYPE), b"")], {"a": b""}, "is a pipe"),
        ([(typed("run/a", tarfile.DIRTYPE), b"")], {"a": b""}, "is a folder"),
        ([(typed("run/a", b"S"), b"")], {"a": b""}, "plain files only"),
        ([(plain("run/a", X), X), (plain("run/a", X), X)], {"a": X}, "comes twice"),
        ([(plain("run/a", X), X), (plain("run/a/b", X), X)], {"a": X, "a/b": X}, "a file and a folder"),
        ([(plain("run/b", X), X)], {"a": X}, "not in its list"),
        ([(plain("run/a", b"xx"), b"xx")], {"a": X}, "its list says 1"),
        ([(plain("run/a", b"y"), b"y")], {"a": X}, "is not the file that its list names"),
        ([], {"a": X, "b": X}, "lacks 2 files"),
        ([(plain("run/" + "d/" * 600 + "a", X), X)], {"a": X}, "characters"),
    ],
)
def test_a_member_that_means_harm_is_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], listed: dict[str, bytes], said: str
) -> None:
    inside = tmp_path / "deep" / "out"
    inside.mkdir(parents=True)
    file = made(tmp_path / "b.tar.gz", members, listed)
    with pytest.raises(BundleRefused, match=said) as refused:
        unpack(file, inside)
    assert refused.value.exit_code == 1
    outside = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if not p.is_relative_to(inside)}
    assert outside == {"deep", "b.tar.gz"}
    assert not Path("/etc/evil").exists()
    assert not any(p.is_symlink() for p in inside.rglob("*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "schema 2"),
        ({"run": "else"}, "is of run 'else'"),
        ({"files": 7}, "schema 1"),
        ({"files": [7]}, "without path"),
        ({"files": [{"path": "a", "bytes": -1, "sha256": ""}]}, "an entry that is none"),
        ({"files": [{"path": "a", "bytes": 1, "sha256": ""}] * 2}, "twice"),
        ({"files": [{"path": "a", "bytes": 1 << 50, "sha256": ""}]}, "--max-size"),
        ({"files": [{"path": f"a{n}", "bytes": 0, "sha256": ""} for n in range(40)]}, "more than 30"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleRefused, match=said):
        unpack(made(tmp_path / "b.tar.gz", [], {}, **changes), tmp_path / "out", Limits(files=30))


def test_a_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    """A member of a tebibyte where the list says one octet, and one whose name alone takes a gibibyte."""
    info = plain("run/a")
    info.size = 1 << 40
    header = info.tobuf(tarfile.PAX_FORMAT)
    extended = typed("run/a", tarfile.XHDTYPE)
    extended.size = 1 << 30
    for begin, said in ((header, "--max-size|its list says"), (extended.tobuf(tarfile.USTAR_FORMAT), "name takes")):
        file = made(tmp_path / "b.tar.gz", [], {"a": X})
        good = gzip.decompress(file.read_bytes())
        with gzip.open(file, "wb", compresslevel=9) as sink:
            sink.write(good.rstrip(b"\0") + b"\0" * (-len(good.rstrip(b"\0")) % 512) + begin)
            for _ in range(64):
                sink.write(b"\0" * (1 << 20))
        (tmp_path / said[:4]).mkdir()
        with pytest.raises(BundleRefused, match=said):
            unpack(file, tmp_path / said[:4])
        assert sum(p.stat().st_size for p in (tmp_path / said[:4]).rglob("*") if p.is_file()) < 4096


@pytest.mark.parametrize("suffix", [".tar.zst", ".tar.gz"])
@pytest.mark.parametrize("share", [0.0005, 0.6])
def test_a_torn_bundle_is_refused(sound_run: Path, tmp_path: Path, suffix: str, share: float) -> None:
    file = bundle(sound_run, tmp_path / f"b{suffix}").file
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleRefused, match=r"damaged|ends early|empty"):
        unpack(file, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".tar.zst", ".tar.gz"])
def test_a_bundle_with_another_octet_is_refused(sound_run: Path, tmp_path: Path, suffix: str) -> None:
    file = bundle(sound_run, tmp_path / f"b{suffix}").file
    whole = bytearray(file.read_bytes())
    for n, at in enumerate(range(100, len(whole), len(whole) // 6)):
        changed = bytearray(whole)
        changed[at] ^= 0x55
        file.write_bytes(changed)
        (tmp_path / f"out{n}").mkdir()
        with pytest.raises(BundleRefused):
            unpack(file, tmp_path / f"out{n}")


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for content, said in ((b"", "neither Zstandard nor gzip"), (b"PK\3\4zip", "neither"), (gzip.compress(b""), "ends early"),
                          (gzip.compress(b"\0" * 1024), "empty"), (gzip.compress(b"hello" * 300), "damaged")):  # fmt: skip
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(BundleRefused, match=said):
            unpack(tmp_path / "b", tmp_path / "out")
    with pytest.raises(UsageError, match="no file"):
        unpack(tmp_path / "nowhere", tmp_path / "out")
