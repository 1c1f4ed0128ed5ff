"""The contract of protocol cases: tables judge, scripts observe, endings are seen, nothing hangs, the gate is three-way."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokerproof.conformance.case import (
    AS_REQUIRED,
    CUT_SHORT,
    Case,
    Line,
    Seen,
    Table,
    among,
    case,
    cases_of,
    chan,
    conn,
    error,
    must,
    should,
    silent,
    worst,
)  # fmt: skip
from brokerproof.conformance.ledger import Says, admitted, drifts, ledger
from brokerproof.conformance.link import Link, OutOfTime
from brokerproof.conformance.manifest import Manifest, gate, manifest, manifest_in, stale
from brokerproof.conformance.replayed import verdict_again
from brokerproof.conformance.running import Conductor, Target, admit, jobs_of
from brokerproof.conformance.scene import AFTERWARDS, Judged, Outcome, Scene, play
from brokerproof.conformance.wirelog import ENTRIES_MAX, HEX_OCTETS, WireLog
from brokerproof.errors import EnvironmentProblem, HarnessError, ProvisionError, UsageError
from brokerproof.pytest_cases import whole
from brokerproof.results import EXIT_HARNESS, EXIT_MISSING, EXIT_OK, EXIT_UNEXPECTED, RunFolder, exit_code, load_json
from brokerproof.runtime.pool import ClusterKey
from brokerproof.versions import applies

# -- tables ------------------------------------------------------------------------------------------------------------

CLOSED = Seen(ending="closed", scope="connection", code=501)


@pytest.mark.parametrize(
    ("table", "seen", "verdict"),
    [
        (conn(501), CLOSED, "PASS"),
        (conn(501, 502), Seen(ending="closed", scope="connection", code=502), "PASS"),
        (conn(504), CLOSED, "CODE"),
        (chan(501), CLOSED, "CODE"),
        (conn(501), Seen(ending="eof", scope="connection"), "CODE"),
        (conn(501), Seen(ending="reset", scope="connection"), "CODE"),
        (conn(501), Seen(ending="open"), "FAIL"),
        (conn(501), Seen(behaviour="declare-ok", ending="open"), "FAIL"),
        (conn(503), Seen(ending="closed", scope="connection", code=540), "UNIMPL"),
        (conn(540), Seen(ending="closed", scope="connection", code=540), "PASS"),
        (silent(), Seen(ending="eof", scope="connection"), "PASS"),
        (silent(), Seen(ending="reset", scope="connection"), "PASS"),
        (silent(), CLOSED, "NONSTRICT"),
        (silent(), Seen(ending="closed", scope="channel", code=501), "FAIL"),
        (silent(), Seen(ending="open"), "FAIL"),
        (must(), Seen(behaviour=AS_REQUIRED), "PASS"),
        (must(), Seen(behaviour="a hole at 17"), "FAIL"),
        (should(), Seen(behaviour="no host"), "NONSTRICT"),
        (among("x", first="PASS", not_first="NONSTRICT"), Seen(behaviour="not first"), "NONSTRICT"),
        (among("x", first="PASS"), Seen(behaviour="last"), "FAIL"),
        (Table("x", (Line("PASS", behaviour=("gone after*",)),)), Seen(behaviour="gone after 4 s"), "PASS"),
        (Table("x", (Line("PASS", codes=()),)), Seen(code=3), "FAIL"),
        (Table("x", (Line("PASS", codes=()),)), Seen(), "PASS"),
        (CUT_SHORT, Seen(ending="eof", scope="connection"), "PASS"),
        (CUT_SHORT, Seen("silent", ending="reset"), "PASS"),
        (CUT_SHORT, CLOSED, "PASS"),
        (CUT_SHORT, Seen(ending="open"), "FAIL"),
        (CUT_SHORT, Seen("queue.declare-ok", ending="open"), "FAIL"),
        (CUT_SHORT, Seen("answered", code=0), "FAIL"),
        (CUT_SHORT, Seen("octets came", ending="eof"), "FAIL"),
    ],
)
def test_a_table_judges(table: Table, seen: Seen, verdict: str) -> None:
    assert table.judge(seen, "amqp091")[0] == verdict


@pytest.mark.parametrize(
    ("protocol", "code", "verdict"),
    [
        ("kafka", 21, "PASS"),
        ("kafka", 3, "CODE"),
        ("kafka", 35, "UNIMPL"),
        ("rocketmq", 3, "UNIMPL"),
        ("kafka", 0, "FAIL"),
    ],
)
def test_an_error_code_is_judged(protocol: str, code: int, verdict: str) -> None:
    assert error(21).judge(Seen(behaviour="answered", code=code), protocol)[0] == verdict


def test_where_success_is_due_every_error_is_a_failure() -> None:
    assert error(0).judge(Seen(behaviour="answered", code=0), "kafka")[0] == "PASS"
    assert error(0).judge(Seen(behaviour="answered", code=3), "kafka")[0] == "FAIL"


def test_no_answer_is_no_error_code() -> None:
    assert error(21).judge(Seen(behaviour="nothing", ending="eof", scope="connection"), "kafka")[0] == "FAIL"


def test_an_error_that_is_due_is_not_taken_for_unsupported() -> None:
    assert error(35).judge(Seen(behaviour="answered", code=35), "kafka")[0] == "PASS"


def test_a_failure_names_the_nearest_line() -> None:
    _, why = conn(501).judge(Seen(behaviour="delivered", ending="open"), "amqp091")
    assert "nearest accepted (PASS)" in why or "nearest accepted (CODE)" in why
    assert "ending open" in why


def test_the_worst_step_decides() -> None:
    assert worst({"PASS", "NONSTRICT"}) == "NONSTRICT"
    assert worst({"PASS", "CODE", "FAIL", "UNIMPL"}) == "FAIL"
    assert worst(set()) == "INFO"


@pytest.mark.parametrize(
    ("needs", "version", "so"),
    [
        ("rabbitmq>=3.10", "3.10.8", True), ("rabbitmq>=3.10", "3.8.9", False), ("rabbitmq>=3.10", "4.0.5", True),
        ("rabbitmq<4.0,rabbitmq>=3.9", "3.10.8", True), ("rabbitmq<4.0", "4.0.5", False), ("kafka>=4.0", "3.8.9", True),
    ],
)  # fmt: skip
def test_a_range_of_versions_applies(needs: str, version: str, so: bool) -> None:
    assert applies(needs, "rabbitmq", version) is so


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(HarnessError, match="version range"):
        applies("rabbitmq=4", "rabbitmq", "4.0.5")


# -- cases -------------------------------------------------------------------------------------------------------------


def _case(script: Callable[[Any], None], **more: Any) -> Case:
    told: dict[str, Any] = {
        "requirement": "r", "reference": "s", "level": "MUST", "accepts": {"": must()}, "limit_s": 20.0, **more,
    }  # fmt: skip
    case(told.pop("id", "A1.01"), "amqp091/one", **told)(script)
    found = script.brokerproof_case  # type: ignore[attr-defined]
    assert isinstance(found, Case)
    return found


@pytest.mark.parametrize(
    "told",
    [{"id": "1"}, {"accepts": {}}, {"level": "must"}, {"tags": ("quick",)}],
)
def test_data_that_cannot_be_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(HarnessError):
        _case(lambda scene: None, **told)


def test_two_cases_with_one_id_are_refused(tmp_path: Path) -> None:
    text = (
        "from brokerproof.conformance.case import case, must\n"
        "@case('A1.01', 'amqp091/{name}', requirement='', reference='', level='MUST', accepts={{'': must()}})\n"
        "def test_x(scene): ...\n"
    )
    (tmp_path / "test_a.py").write_text(text.format(name="a"))
    assert [c.slug for c in cases_of(tmp_path)] == ["amqp091/a"]
    (tmp_path / "test_b.py").write_text(text.format(name="b"))
    with pytest.raises(HarnessError, match=r"A1\.01"):
        cases_of(tmp_path)


# -- scenes ------------------------------------------------------------------------------------------------------------


class _Ground:
    """Scenes without a peer. wrong: what ``after`` finds."""

    product, version = "rabbitmq", "4.0.5"

    def __init__(self, wrong: str = "", scale: float = 1.0) -> None:
        self.wrong, self.scale, self.closed = wrong, scale, 0

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        yield Scene(
            case, variant=variant, condition=condition, product=self.product, version=self.version, name="bp-1", log=log,
            scale=self.scale, stop=stop,
        )  # fmt: skip

    def after(self, scene: Scene) -> str:
        return self.wrong

    def close(self) -> None:
        self.closed += 1


def _played(script: Callable[[Any], None], ground: _Ground | None = None, **more: Any) -> Outcome:
    return play(ground or _Ground(), _case(script, **more))


def test_a_case_that_does_as_required_passes() -> None:
    outcome = _played(lambda s: s.require("", True, ""))
    assert (outcome.verdict, outcome.observed) == ("PASS", AS_REQUIRED)


def test_a_case_takes_its_worst_step_and_shows_it() -> None:
    def script(s: Scene) -> None:
        s.require("a", True, "")
        s.require("b", False, "two copies")

    outcome = _played(script, accepts={"a": must(), "b": must()})
    assert outcome.verdict == "FAIL"
    assert "b: two copies" in outcome.observed
    assert [s.verdict for s in outcome.steps] == ["PASS", "FAIL"]


_RECORDED = must().or_else(Line("INFO", behaviour=("recorded",)))


@pytest.mark.parametrize(
    ("told", "steps", "wrong", "verdict"),
    [
        ({"accepts": {"": _RECORDED}}, {"": "recorded"}, "", "INFO"),
        ({"accepts": {"": _RECORDED}}, {"": "recorded"}, "the sibling channel is closed", "FAIL"),
        ({"accepts": {"": _RECORDED}}, {"": AS_REQUIRED}, "", "PASS"),
        ({"accepts": {"": _RECORDED}}, {"": "something else"}, "", "FAIL"),
        ({"accepts": {"a": _RECORDED, "b": must()}}, {"a": "recorded", "b": AS_REQUIRED}, "", "PASS"),
        ({"accepts": {}, "records": ("r",)}, {}, "", "INFO"),
        ({"accepts": {}, "records": ("r",)}, {}, "the health probe fails", "FAIL"),
    ],
)
def test_that_nobody_else_was_hurt_passes_no_case_that_is_only_recorded(
    tmp_path: Path, ground: _Ground, told: dict[str, Any], steps: dict[str, str], wrong: str, verdict: str
) -> None:
    def script(s: Scene) -> None:
        for step, behaviour in steps.items():
            s.saw(step, Seen(behaviour))
        for name in s.case.records:
            s.record(name, 1)

    ground.wrong = wrong
    home = _Home(tmp_path / "run")
    (entry,) = _conducted(home, tmp_path, _case(script, negative=True, **told))
    assert entry["verdict"] == verdict
    assert verdict_again(load_json(home.folder.path / entry["path"])) == verdict


def test_a_page_of_which_not_all_was_judged_is_judged_again_as_such(tmp_path: Path, ground: _Ground) -> None:
    home = _Home(tmp_path / "run")
    (entry,) = _conducted(home, tmp_path, _case(lambda s: s.require("a", True, ""), accepts={"a": must(), "b": must()}))
    page = load_json(home.folder.path / entry["path"])
    assert (entry["verdict"], page["unfinished"]) == ("INCONCLUSIVE", "step 'b' was not reached")
    assert verdict_again(page) == "INCONCLUSIVE"


def test_a_step_that_was_not_reached_is_no_pass() -> None:
    outcome = _played(lambda s: s.require("a", True, ""), accepts={"a": must(), "b": must()})
    assert (outcome.verdict, outcome.observed) == ("INCONCLUSIVE", "step 'b' was not reached")


def test_a_recorded_case_is_never_judged() -> None:
    outcome = _played(lambda s: s.record("octets", "ff"), accepts={}, records=("octets",))
    assert (outcome.verdict, outcome.observed, outcome.recorded) == ("INFO", "octets: ff", {"octets": "ff"})


def test_a_record_that_is_missing_is_told() -> None:
    outcome = _played(lambda s: s.record("a", 1), accepts={}, records=("a", "b"))
    assert (outcome.verdict, outcome.observed) == ("INCONCLUSIVE", "not recorded: b")


@pytest.mark.parametrize("script", [lambda s: s.saw("x", Seen()), lambda s: s.record("x", 1)])
def test_a_step_that_is_not_declared_is_our_fault(script: Callable[[Any], None]) -> None:
    assert _played(script).verdict == "HARNESS"


def test_a_bug_in_a_script_is_our_fault_and_says_where() -> None:
    def script(s: Scene) -> None:
        raise KeyError("channel")

    outcome = _played(script)
    assert (outcome.verdict, outcome.observed) == ("HARNESS", "KeyError: 'channel'")
    assert any("in script" in e["note"] for e in outcome.log.entries())


def test_skip_and_inconclusive_say_why() -> None:
    assert (o := _played(lambda s: s.skip("no limit offered"))).verdict == "SKIP" and o.observed == "no limit offered"
    assert (o := _played(lambda s: s.inconclusive("garbage"))).verdict == "INCONCLUSIVE" and o.observed == "garbage"


def test_after_a_failure_a_skip_is_still_a_failure() -> None:
    def script(s: Scene) -> None:
        s.require("", False, "lost")
        s.skip("the rest does not apply")

    assert _played(script).verdict == "FAIL"


def test_after_a_failure_a_hang_is_still_a_failure() -> None:
    def script(s: Scene) -> None:
        s.require("", False, "lost")
        raise OutOfTime("the case's time is over")

    assert _played(script).verdict == "FAIL"


def test_after_a_negative_case_everything_else_must_be_as_before() -> None:
    assert _played(lambda s: s.require("", True, ""), _Ground(), negative=True).verdict == "PASS"
    outcome = _played(lambda s: s.require("", True, ""), _Ground("the sibling channel is closed"), negative=True)
    assert outcome.verdict == "FAIL"
    assert outcome.observed == f"{AFTERWARDS}: the sibling channel is closed"


def test_what_a_script_opened_is_put_back_however_it_ends() -> None:
    undone = []

    def script(s: Scene) -> None:
        s.finally_(lambda: undone.append(1))
        s.finally_(lambda: undone.append(2))
        raise ValueError

    _played(script)
    assert undone == [2, 1]


def test_time_on_a_reference_peer_is_shorter() -> None:
    def script(s: Scene) -> None:
        s.require("", s.seconds(5) == pytest.approx(0.1) and s.measured(0.1) == pytest.approx(5), "")

    assert _played(script, _Ground(scale=0.02)).verdict == "PASS"


# -- links -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _peer(does: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server that does this with each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listening.accept()
                with one, contextlib.suppress(OSError):
                    does(one)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        listening.close()


def _reset(one: socket.socket) -> None:
    one.recv(1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def _linked(address: tuple[str, int], log: WireLog | None = None, within_s: float = 5.0) -> Iterator[Link]:
    link = Link(address, log=log or WireLog(), name="a", deadline=time.monotonic() + within_s)
    try:
        yield link
    finally:
        link.close()


def test_octets_and_the_end_are_seen() -> None:
    log = WireLog()
    with _peer(lambda one: one.sendall(one.recv(4)[::-1])) as address:
        with _linked(address, log) as link:
            assert link.send(b"AMQP", decoded="header")
            assert link.receive(time.monotonic() + 2) == b"PQMA"
            assert link.receive(time.monotonic() + 2) == b""
            assert link.ended == "eof"
    kinds = [(e["dir"], e["layer"], e["hex"], e["note"]) for e in log.entries()]
    assert (">", "frame", b"AMQP".hex(), "") in kinds
    assert ("<", "tcp", b"PQMA".hex(), "") in kinds
    assert kinds[-1][3] == "FIN received"


def test_a_reset_is_told_from_a_close() -> None:
    with _peer(_reset) as address, _linked(address) as link:
        link.send(b"x")
        link.receive(time.monotonic() + 2)
        assert link.ended == "reset"
        assert not link.send(b"x")


def test_a_peer_that_never_answers_is_waited_for_so_long_and_no_longer() -> None:
    done = threading.Event()
    with _peer(lambda one: done.wait(5) and None) as address, _linked(address) as link:
        began = time.monotonic()
        assert link.receive(began + 0.3) == b""
        assert link.ended == ""
        assert time.monotonic() - began < 3
        done.set()


def test_the_case_as_a_whole_has_a_deadline() -> None:
    done = threading.Event()
    with _peer(lambda one: done.wait(5) and None) as address, _linked(address, within_s=0.3) as link:
        with pytest.raises(OutOfTime):
            link.receive(time.monotonic() + 60)
        done.set()


def test_a_flood_ends_the_case_and_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brokerproof.conformance.link.RECEIVED_MAX", 2**20)

    def flood(one: socket.socket) -> None:
        while True:
            one.sendall(b"x" * 2**16)

    def read_all(link: Link) -> None:
        while link.receive(time.monotonic() + 2):
            pass

    with _peer(flood) as address, _linked(address) as link, pytest.raises(OutOfTime, match="flood"):
        read_all(link)


def test_a_peer_that_is_not_there_is_our_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with pytest.raises(EnvironmentProblem, match="is the broker up"):
        Link(address, log=WireLog(), name="a", deadline=time.monotonic() + 5)


def test_a_long_message_is_cut_in_the_log_and_can_be_known_again() -> None:
    log = WireLog()
    log.add(">", "tcp", b"x" * 1000)
    (entry,) = log.entries()
    assert len(entry["hex"]) == 2 * HEX_OCTETS
    assert entry["octets"] == 1000
    assert len(entry["sha256"]) == 64


def test_a_log_has_an_end() -> None:
    log = WireLog()
    for _ in range(ENTRIES_MAX + 7):
        log.note("x")
    entries = log.entries()
    assert len(entries) == ENTRIES_MAX + 1
    assert entries[-1]["note"] == "7 more entries, not kept"


# -- expected results and the ledger -----------------------------------------------------------------------------------

LINES = '[conformance]\ncases = 2\n\n[[case]]\ncase = "A1.01"\nverdict = "FAIL"\nreason = "seen"\n'


def _manifest(folder: Path, text: str = LINES) -> Manifest:
    (folder / "rabbitmq-4.0.5.toml").write_text(text)
    manifest_in.cache_clear()
    return manifest(folder, "rabbitmq", "4.0.5")


def test_the_gate_is_three_way(tmp_path: Path) -> None:
    lines = _manifest(tmp_path)
    one = _case(lambda s: None)
    assert gate(lines, one, "A1.01", "", "FAIL").as_expected
    assert not gate(lines, one, "A1.01", "", "PASS").as_expected  # an unexpected pass
    assert not gate(lines, one, "A1.02", "", "FAIL").as_expected  # a new failure
    assert gate(lines, one, "A1.02", "", "PASS").as_expected
    assert stale(lines, {("A1.01", ""), ("A1.02", "")}, whole=True) == []
    assert "manifest says 2" in stale(lines, {("A1.01", "")}, whole=True)[0]  # a changed count
    assert "A1.01" in stale(lines, {("A1.03", ""), ("A1.02", "")}, whole=True)[0]  # a stale line
    assert stale(lines, {("A1.02", "")}, whole=False) == []


@pytest.mark.parametrize(
    ("verdict", "strict", "fine"),
    [
        ("PASS", False, True), ("NONSTRICT", False, True), ("NONSTRICT", True, False), ("SKIP", True, True), ("CODE", False, False),
        ("DEV", False, False), ("UNIMPL", False, False), ("INCONCLUSIVE", False, False), ("HARNESS", False, False), ("INFO", False, False),
    ],
)  # fmt: skip
def test_without_a_line_a_judged_case_must_pass(verdict: Any, strict: bool, fine: bool) -> None:
    assert gate(Manifest((), None), _case(lambda s: None), "A1.01", "", verdict, strict=strict).as_expected is fine


@pytest.mark.parametrize(
    "text",
    [
        "[[case]]\ncase = 'A1.01'\nverdict = 'FAIL'\n", "[[case]]\ncase = 'A1.01'\nverdict = 'HARNESS'\nreason = 'x'\n",
        "[[case]]\ncase = 'A1.01'\nverdict = 'FAIL'\nreason = 'x'\nwhy = 'y'\n", "[[case",
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"rabbitmq-4\.0\.5"):
        _manifest(tmp_path, text)


def test_a_line_is_in_force_for_some_versions_of_the_suites(tmp_path: Path) -> None:
    assert _manifest(tmp_path, LINES + 'since = "99.0"\n').lines == ()
    assert _manifest(tmp_path, LINES + 'until = "0.0.1"\n').lines == ()
    assert len(_manifest(tmp_path, LINES + 'until = "99.0"\n').lines) == 1


def _failed(behaviour: str) -> Outcome:
    return Outcome("FAIL", "x", steps=[Judged("", Seen(behaviour=behaviour), "FAIL", "", 0.0)])


def test_only_exactly_what_a_vendor_admits_is_a_deviation() -> None:
    says = [Says(case="A7.03", verdict="DEV", text="t", address="a", does="own messages delivered")]
    outcome = _failed("own messages delivered")
    admit(outcome, says)
    assert outcome.verdict == "DEV"
    other = _failed("nothing delivered")
    admit(other, says)
    assert other.verdict == "FAIL"
    assert not admitted(says, Judged("", Seen(behaviour="x"), "FAIL", "", 0.0))


def test_what_was_not_reached_is_not_admitted() -> None:
    """A FAIL stands whatever else was not judged; once the vendor admits it, the rest has still not been seen."""

    def script(s: Scene) -> None:
        s.require("a", False, "own messages delivered")

    outcome = _played(script, accepts={"a": must(), "b": must()})
    assert outcome.verdict == "FAIL"
    admit(outcome, [Says(case="A7.03", verdict="DEV", text="t", address="a", does="own messages delivered")])
    assert outcome.verdict == "INCONCLUSIVE"
    assert outcome.observed.startswith("step 'b' was not reached; before that: a: own messages delivered")


def test_what_befell_others_is_never_admitted() -> None:
    outcome = _failed("own messages delivered")
    outcome.steps[0].step = AFTERWARDS
    admit(outcome, [Says(case="A7.03", verdict="DEV", text="t", address="a", does="own messages delivered")])
    assert outcome.verdict == "FAIL"


def test_a_statement_that_differs_drifts() -> None:
    says = [Says(case="A1.01", verdict="PASS", text="t", address="a")]
    assert drifts(says, "FAIL")
    assert not drifts(says, "PASS")
    assert not drifts(says, "SKIP")
    assert not drifts([], "FAIL")


def test_a_ledger_that_says_too_little_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rabbitmq.toml").write_text("[[says]]\ncase='A1.01'\nverdict='DEV'\ntext='t'\naddress='a'\n")
    with pytest.raises(UsageError, match="does"):
        ledger(tmp_path, "rabbitmq")
    assert ledger(tmp_path, "kafka") == ()


def test_a_statement_is_about_some_versions() -> None:
    says = Says(case="A1.01", verdict="PASS", text="t", address="a", version="3.1")
    assert says.of("A1.01", "3.1.2")
    assert not says.of("A1.01", "3.10.8")
    assert Says(case="A1.01", verdict="PASS", text="t", address="a").of("A1.01", "3.10.8")


# -- running -----------------------------------------------------------------------------------------------------------


class _Cluster:
    product, version, topology = "rabbitmq", "4.0.5", "single"

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def wait_healthy(self, timeout_s: float) -> None: ...


class _Pool:
    def __init__(self) -> None:
        self.spoilt: list[ClusterKey] = []

    def spoil(self, key: ClusterKey) -> None:
        self.spoilt.append(key)


class _Home:
    """A run without an engine. fails: how often the cluster does not come up."""

    def __init__(self, folder: Path, fails: int = 0) -> None:
        self.folder = RunFolder(folder)
        self.folder.create(seed=1, command="")
        self.pool: Any = _Pool()
        self.fails, self.keys, self.said = fails, [], []  # type: ignore[var-annotated]

    @contextlib.contextmanager
    def cluster(self, key: ClusterKey, cell: str) -> Iterator[Any]:
        self.keys.append(key)
        if self.fails:
            self.fails -= 1
            raise ProvisionError("no such image")
        yield _Cluster()

    def say(self, cell: str, what: str) -> None:
        self.said.append((cell, what))


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> _Ground:
    made = _Ground()
    monkeypatch.setattr("brokerproof.conformance.running.on_cluster", lambda cluster: made)
    return made


def _conducted(home: _Home, tmp_path: Path, *cases: Case) -> list[dict[str, Any]]:
    jobs = jobs_of(cases)
    conductor = Conductor(home, Target("rabbitmq", "4.0.5"), jobs, expected_in=tmp_path, ledger_in=tmp_path)
    try:
        return [conductor.entry(job) for job in jobs]
    finally:
        conductor.close()


def test_cases_run_side_by_side(tmp_path: Path, ground: _Ground) -> None:
    both = threading.Barrier(2, timeout=10)

    def script(s: Scene) -> None:
        both.wait()
        s.require("", True, "")

    home = _Home(tmp_path / "run")
    entries = _conducted(home, tmp_path, _case(script, id="A1.01"), _case(script, id="A1.02"))
    assert [e["verdict"] for e in entries] == ["PASS", "PASS"]
    assert ground.closed == 1
    results = home.folder.fold(interrupted=False)
    assert [e["case"] for e in results["cases"]] == ["A1.01", "A1.02"]
    assert exit_code(results) == EXIT_OK
    assert (home.folder.path / entries[0]["path"]).exists()


def test_what_others_would_feel_comes_last_and_alone(tmp_path: Path, ground: _Ground) -> None:
    running, order = [], []

    def script(s: Scene) -> None:
        running.append(s.case.id)
        order.append((s.case.id, len(running)))
        s.require("", True, "")
        running.remove(s.case.id)

    _conducted(
        _Home(tmp_path / "run"), tmp_path, _case(script, id="A1.01", tags=("destructive",)), _case(script, id="A1.02"),
        _case(script, id="A1.03", tags=("destructive",)),
    )  # fmt: skip
    assert [i for i, _ in order] == ["A1.02", "A1.01", "A1.03"]
    assert {n for i, n in order if i != "A1.02"} == {1}


def test_settings_of_their_own_get_a_cluster_of_their_own(tmp_path: Path, ground: _Ground) -> None:
    home = _Home(tmp_path / "run")
    one = _case(
        lambda s: s.require("", True, ""), variants=("", "low"), variant_settings={"low": {"channel_max": 10}}
    )  # fmt: skip
    entries = _conducted(home, tmp_path, one)
    assert [e["variant"] for e in entries] == ["", "low"]
    assert [k.settings for k in home.keys] == ["{}", '{"channel_max": 10}']


def test_a_version_is_given_only_settings_that_it_knows(tmp_path: Path, ground: _Ground) -> None:
    home = _Home(tmp_path / "run")
    one = _case(
        lambda s: s.require("", True, ""), settings={"channel_max": 10},
        version_settings={"rabbitmq>=4.0": {"new": 1}, "rabbitmq<4.0": {"old": 2}},
    )  # fmt: skip
    _conducted(home, tmp_path, one)
    assert [k.settings for k in home.keys] == ['{"channel_max": 10, "new": 1}']
    assert jobs_of([one])[0].case.settings_of("", "rabbitmq", "3.13.7") == {"channel_max": 10, "old": 2}


@pytest.mark.parametrize("clusters", [1, 2])
def test_clusters_that_differ_are_up_side_by_side_where_there_is_room(
    tmp_path: Path, ground: _Ground, clusters: int
) -> None:
    up, most, lock = 0, 0, threading.Lock()

    class Counting(_Home):
        @contextlib.contextmanager
        def cluster(self, key: ClusterKey, cell: str) -> Iterator[Any]:
            nonlocal up, most
            with lock:
                up += 1
                most = max(most, up)
            yield _Cluster()
            with lock:
                up -= 1

    met = threading.Barrier(clusters, timeout=10)

    def script(s: Scene) -> None:
        met.wait()
        s.require("", True, "")

    jobs = jobs_of([_case(script, id=f"A1.0{n}", settings={"frame_max": str(4096 + n)}) for n in (1, 2)])
    conductor = Conductor(
        Counting(tmp_path / "run"), Target("rabbitmq", "4.0.5"), jobs, expected_in=tmp_path, ledger_in=tmp_path,  # type: ignore[arg-type]
        clusters=clusters,
    )  # fmt: skip
    assert [conductor.entry(job)["verdict"] for job in jobs] == ["PASS", "PASS"]
    conductor.close()
    assert most == clusters


def test_a_case_that_does_not_apply_is_skipped_without_a_cluster(tmp_path: Path, ground: _Ground) -> None:
    home = _Home(tmp_path / "run")
    (entry,) = _conducted(home, tmp_path, _case(lambda s: None, needs="rabbitmq>=5.0"))
    assert (entry["verdict"], entry["observed"], entry["as_expected"]) == ("SKIP", "needs rabbitmq>=5.0", True)
    assert home.keys == []


def test_a_broker_that_does_not_start_is_our_fault(tmp_path: Path, ground: _Ground) -> None:
    home = _Home(tmp_path / "run", fails=1)
    (entry,) = _conducted(home, tmp_path, _case(lambda s: s.require("", True, "")))
    assert (entry["verdict"], entry["observed"]) == ("HARNESS", "no such image")
    assert exit_code(home.folder.fold()) == EXIT_HARNESS


@pytest.mark.parametrize(
    ("failures", "verdict", "attempts"), [(1, "INCONCLUSIVE", 2), (2, "INCONCLUSIVE", 3), (3, "FAIL", 3)]
)
def test_a_fail_that_nobody_expected_is_tried_three_times(
    tmp_path: Path, ground: _Ground, failures: int, verdict: str, attempts: int
) -> None:
    left = [failures]

    def script(s: Scene) -> None:
        left[0] -= 1
        s.require("", left[0] < 0, "late")

    home = _Home(tmp_path / "run")
    (entry,) = _conducted(home, tmp_path, _case(script))
    assert (entry["verdict"], entry["attempts"]) == (verdict, attempts)
    assert exit_code(home.folder.fold()) == (EXIT_UNEXPECTED if verdict == "FAIL" else EXIT_MISSING)


def test_a_fail_is_asked_again_when_the_crowd_is_gone(tmp_path: Path, ground: _Ground) -> None:
    failed, playing, alone = threading.Event(), threading.Event(), []

    def crowd(s: Scene) -> None:
        playing.set()
        assert failed.wait(10)
        s.require("", True, "")
        playing.clear()

    def late(s: Scene) -> None:
        assert failed.is_set() or playing.wait(10)
        failed.set()
        alone.append(not playing.is_set())
        s.require("", len(alone) > 1, "late")

    entries = _conducted(_Home(tmp_path / "run"), tmp_path, _case(crowd, id="A1.01"), _case(late, id="A1.02"))
    assert [e["verdict"] for e in entries] == ["PASS", "INCONCLUSIVE"]
    assert entries[1]["observed"].startswith("repeats disagree: 1 of 2 FAIL (late")
    assert alone == [False, True]


def test_a_fail_that_was_expected_is_not_asked_again(tmp_path: Path, ground: _Ground) -> None:
    (tmp_path / "rabbitmq-4.0.5.toml").write_text('[[case]]\ncase = "A1.01"\nverdict = "FAIL"\nreason = "measured"\n')
    (entry,) = _conducted(_Home(tmp_path / "run"), tmp_path, _case(lambda s: s.require("", False, "late")))
    assert (entry["verdict"], entry["attempts"], entry["as_expected"]) == ("FAIL", 1, True)


def test_a_fail_that_left_no_cluster_to_ask_again_stands(
    tmp_path: Path, ground: _Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwell(self: Any, timeout_s: float) -> None:
        raise ProvisionError("one node is down")

    monkeypatch.setattr(_Cluster, "wait_healthy", unwell)
    script = lambda s: s.require("", False, "late")  # noqa: E731
    home = _Home(tmp_path / "run")
    entries = _conducted(home, tmp_path, *(_case(script, id=f"A1.0{n}", tags=("destructive",)) for n in (1, 2)))
    assert [(e["verdict"], e["attempts"]) for e in entries] == [("FAIL", 1), ("FAIL", 1)]
    assert len(home.keys) == 2


def test_a_condition_is_a_suffix_of_the_id(tmp_path: Path, ground: _Ground) -> None:
    entries = _conducted(
        _Home(tmp_path / "run"), tmp_path, _case(lambda s: s.require("", True, ""), conditions=("slicer",))
    )
    assert [e["case"] for e in entries] == ["A1.01", "A1.01@slicer"]


def test_a_page_says_what_repeats_it_and_shows_the_tables_that_were_in_force(tmp_path: Path, ground: _Ground) -> None:
    one = _case(
        lambda s: (s.saw("", Seen(ending="eof")), s.require("stored", True, "")),
        accepts={"": conn(501), "stored": must()}, conditions={"slicer": {"": silent()}, "cut": {}}, variants=("quorum",),
    )  # fmt: skip
    home = _Home(tmp_path / "run")
    pages = {e["case"]: load_json(home.folder.path / e["path"]) for e in _conducted(home, tmp_path, one)}
    again = "brokerproof conformance --broker rabbitmq=4.0.5 --case A1.01{} --variant quorum"
    assert {id: page["command"] for id, page in pages.items()} == {
        f"A1.01{suffix}": again.format(suffix) for suffix in ("", "@slicer", "@cut")
    }
    says = {id: {step: table["says"] for step, table in page["accepts"].items()} for id, page in pages.items()}
    assert says == {
        "A1.01": {"": conn(501).says, "stored": must().says}, "A1.01@slicer": {"": silent().says, "stored": must().says},
        "A1.01@cut": {"": CUT_SHORT.says, "stored": must().says},
    }  # fmt: skip
    assert pages["A1.01@cut"]["accepts"][""] == CUT_SHORT.to_json()


def test_a_condition_that_does_not_exist_is_refused() -> None:
    with pytest.raises(HarnessError, match="no condition"):
        jobs_of([_case(lambda s: None, conditions=("fog",))])


def test_through_a_condition_a_step_has_the_table_that_is_named_for_it() -> None:
    one = _case(
        lambda s: s.require("late" if s.condition else "", True, ""), conditions={"slicer": {"late": must("slowly")}}
    )  # fmt: skip
    assert play(_Ground(), one).verdict == "PASS"
    # It has the other tables too, and this script does not reach that one.
    assert play(_Ground(), one, condition="slicer").observed == "step '' was not reached"
    assert one.to_json("slicer")["accepts"]["late"]["says"] == "slowly"


def test_where_frames_are_cut_short_a_script_is_played_once_for_each_place() -> None:
    came: list[bytes] = []

    def script(s: Scene) -> None:
        came.append(s.cut_short(b"frame"))
        s.saw("", Seen(ending="eof"))
        s.require("stored", True, "")

    one = _case(script, accepts={"": conn(501), "stored": must()}, conditions=("cut",))
    outcome = play(_Ground(), one, condition="cut")
    assert came == [b"fr", b"fram", b"f"]
    assert outcome.verdict == "PASS"
    # Nothing forbidden was sent whole, yet everything else is looked at.
    assert [j.step for j in outcome.steps if j.step == AFTERWARDS] == [AFTERWARDS]


def test_where_frames_are_cut_short_an_answer_is_a_failure_whatever_the_case_wants() -> None:
    one = _case(lambda s: s.saw("", Seen("answered", code=0)), accepts={"": error(0)}, conditions=("cut",))
    assert play(_Ground(), one).verdict == "PASS"
    assert play(_Ground(), one, condition="cut").verdict == "FAIL"


def test_an_end_before_its_time_leaves_no_case_without_a_word(tmp_path: Path, ground: _Ground) -> None:
    begun = threading.Event()

    def script(s: Scene) -> None:
        begun.set()
        while not s.stop():
            threading.Event().wait(0.01)
        raise OutOfTime("the case's time is over")

    jobs = jobs_of([_case(script, id="A1.01"), _case(script, id="A1.02", tags=("destructive",))])
    conductor = Conductor(
        _Home(tmp_path / "run"), Target("rabbitmq", "4.0.5"), jobs, expected_in=tmp_path, ledger_in=tmp_path
    )  # type: ignore[arg-type]
    assert begun.wait(10)
    conductor.close()
    entries = [conductor.entry(job) for job in jobs]
    assert [e["verdict"] for e in entries] == ["HARNESS", "HARNESS"]
    assert entries[0]["observed"].startswith("the run was ended while this case ran")


def test_what_a_case_sees_of_the_end_of_the_run_is_no_failure(tmp_path: Path, ground: _Ground) -> None:
    """The clusters go down with the run: it is not tried again then, either."""
    begun, played = threading.Event(), []

    def script(s: Scene) -> None:
        played.append(1)
        begun.set()
        while not s.stop():
            threading.Event().wait(0.01)
        s.require("", False, "the connection ended")

    jobs = jobs_of([_case(script)])
    conductor = Conductor(
        _Home(tmp_path / "run"), Target("rabbitmq", "4.0.5"), jobs, expected_in=tmp_path, ledger_in=tmp_path
    )  # type: ignore[arg-type]
    assert begun.wait(10)
    conductor.close()
    entry = conductor.entry(jobs[0])
    assert (entry["verdict"], entry["attempts"], len(played)) == ("HARNESS", 1, 1)
    assert entry["observed"].startswith(
        "the run was ended while this case ran; FAIL as far as it came: the connection ended"
    )


def test_a_case_that_was_over_before_the_run_ended_keeps_its_verdict() -> None:
    assert play(_Ground(), _case(lambda s: s.require("", True, "")), stop=lambda: True).verdict == "PASS"
    assert play(_Ground(), _case(lambda s: s.require("", False, "x")), stop=lambda: False).verdict == "FAIL"


def test_a_full_disk_leaves_nobody_waiting(tmp_path: Path, ground: _Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, data: Any) -> None:
        raise EnvironmentProblem(f"writing {file}: no space left; is the disk full?")

    monkeypatch.setattr("brokerproof.conformance.running.write_json", full)
    with pytest.raises(EnvironmentProblem, match="is the disk full"):
        _conducted(_Home(tmp_path / "run"), tmp_path, _case(lambda s: s.require("", True, "")))


def test_a_bug_on_the_way_to_a_peer_is_our_fault_and_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cluster: Any) -> Any:
        raise KeyError("links")

    monkeypatch.setattr("brokerproof.conformance.running.on_cluster", broken)
    (entry,) = _conducted(_Home(tmp_path / "run"), tmp_path, _case(lambda s: s.require("", True, "")))
    assert (entry["verdict"], entry["observed"]) == ("HARNESS", "KeyError: 'links'")


def test_less_than_the_suite_has_for_a_target_is_told_from_all_of_it(tmp_path: Path) -> None:
    """By whatever means: ``-k``, ``-m``, ``--deselect`` and a single file leave no option of ours behind."""
    text = (
        "from brokerproof.conformance.case import case, must\n"
        "@case('{id}', '{slug}', requirement='', reference='', level='MUST', accepts={{'': must()}}, conditions=('slicer',))\n"
        "def test_x(scene): ...\n"
    )
    for id, slug in (("A1.01", "amqp091/a"), ("A1.02", "amqp091/b"), ("K1.01", "kafka/a")):
        (tmp_path / f"test_{id[0]}{id[-1]}.py").write_text(text.format(id=id, slug=slug))
    all_of_it = {(id, "") for id in ("A1.01", "A1.01@slicer", "A1.02", "A1.02@slicer")}
    target = Target("rabbitmq", "4.0.5")
    assert whole(tmp_path, target, all_of_it)
    assert whole(tmp_path, target, all_of_it | {("A1.03", "")})  # a count that changed is seen
    assert not whole(tmp_path, target, all_of_it - {("A1.02@slicer", "")})
    assert not whole(tmp_path, target, set())


def test_a_gate_sentence_is_unexpected(tmp_path: Path, ground: _Ground) -> None:
    home = _Home(tmp_path / "run")
    _conducted(home, tmp_path, _case(lambda s: s.require("", True, "")))
    home.folder.write_gate("rabbitmq-4.0.5", ["stale line"])
    assert exit_code(home.folder.fold()) == EXIT_UNEXPECTED
