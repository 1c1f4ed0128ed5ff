"""The pytest surface: claims become items, one per cell; a test fails if and only if its verdict is not the expected.

    pytest suites/claims --brokerproof-broker kafka=4.3.1 --brokerproof-profile quick -k order --brokerproof-seed 7

A claim is a plain function with ``@claim(...)`` that takes a ``Cell`` and returns how it is decided (``Experiment``).
The controlling process names the run folder and hands it to xdist workers; each item writes its own verdict file.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import adopting, broker, configurations, parse_target, products, without
from brokerproof.claims import Declared
from brokerproof.credentials import wipe
from brokerproof.errors import HarnessError, UsageError, unknown
from brokerproof.experiment import PROFILES, Cell, ComparisonExperiment, Experiment, PropertyExperiment
from brokerproof.results import RunFolder, expectation, new_run_id
from brokerproof.schedules import Ground, Limits, Schedule, lacking, named, paced, schedules
from brokerproof.target import load

#: Fixtures for experiments of one's own.
pytest_plugins = ["brokerproof.own.fixtures"]
#: Where ``brokerproof run`` leaves the command that a person would type; the report shows it.
_COMMAND = "BROKERPROOF_COMMAND"
#: The brokers of a run that names none.
REAL = ("kafka", "rabbitmq", "rocketmq")


# -- options -----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("brokerproof", "brokerproof: which delivery promises does a broker keep")
    group.addoption(
        "--brokerproof-broker", action="append", default=[], metavar="PRODUCT[=VERSION]",
        help="Broker to test, repeatable: kafka=4.3.1, rabbitmq, memory=doubles. Default: kafka, rabbitmq and rocketmq, "
        "each in its default version. `brokerproof list brokers` shows all.",
    )  # fmt: skip
    group.addoption(
        "--brokerproof-profile",
        default="quick",
        choices=PROFILES,
        help="How much: quick decides what is deterministic, once; standard repeats, and takes races; thorough more so.",
    )
    group.addoption(
        "--brokerproof-seed", type=int, default=None, help="Seed of the plans; the report names it. Default: random."
    )
    group.addoption(
        "--brokerproof-variant",
        action="append",
        default=[],
        help="Only cells of this variant, e.g. quorum. Repeatable.",
    )
    group.addoption(
        "--brokerproof-select",
        action="append",
        default=[],
        metavar="CLAIM",
        help="Only this claim, by id or by section, e.g. order/one-queue-one-consumer or order. Repeatable.",
    )
    group.addoption(
        "--brokerproof-schedule", action="append", default=[], metavar="NAME",
        help="Decide promises under this schedule of faults in place of their own, repeatable: `brokerproof list "
        "schedules`. Such a cell is a variant of its own, under-NAME.",
    )  # fmt: skip
    group.addoption(
        "--brokerproof-run-dir",
        default=None,
        metavar="DIR",
        help="Run folder; must not exist. Default: runs/<utc>-<seed>.",
    )
    group.addoption(
        "--brokerproof-resume", action="store_true",
        help="Go on in the run folder: only cells that it has no verdict of. `brokerproof run --resume RUN` makes it ready.",
    )  # fmt: skip
    group.addoption("--brokerproof-live", action="store_true", help="Count and judge every trial while it runs.")
    group.addoption(
        "--brokerproof-fail-fast",
        action="store_true",
        help="End a trial, and the run, at the first promise that is seen to be broken and was expected to hold.",
    )
    group.addoption(
        "--brokerproof-expected",
        default=None,
        metavar="DIR",
        help="Expected results. Default: the suite's own, suites/expected.",
    )
    group.addoption(
        "--brokerproof-target", default=None, metavar="FILE",
        help="A broker that somebody else runs, in place of --brokerproof-broker; `brokerproof target init` writes such a file.",
    )  # fmt: skip
    group.addoption(
        "--brokerproof-allow-destructive", action="store_true",
        help="Faults may break the nodes of the target, by the commands or containers that its file gives.",
    )  # fmt: skip
    from brokerproof.pytest_cases import add_options

    add_options(group)


def pytest_configure(config: pytest.Config) -> None:
    for marker, meaning in {
        "container": "needs a container engine",
        "browser": "needs a headless Chromium",
        "cell": "a claim on one broker, version and variant",
        "broker(topology, settings, version)": "of an experiment of one's own: what its broker is started as",
    }.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.option.brokerproof_seed = worker["brokerproof_seed"]
        config.option.brokerproof_run_dir = worker["brokerproof_run"]
        config.option.brokerproof_run_owner = worker["brokerproof_owner"]
        config.option.brokerproof_run_command = worker["brokerproof_command"]
        config.option.brokerproof_target_version = worker["brokerproof_target_version"]
    else:
        config.option.brokerproof_target_version = _asked_for_its_version(config)
        config.option.brokerproof_run_owner = os.getpid()
        typed = "pytest " + " ".join(str(a) for a in config.invocation_params.args)
        config.option.brokerproof_run_command = os.environ.get(_COMMAND) or typed
        if config.option.brokerproof_seed is None:
            config.option.brokerproof_seed = random.SystemRandom().randrange(1, 100_000)
        if config.option.brokerproof_run_dir is None:
            config.option.brokerproof_run_dir = str(Path("runs", new_run_id(config.option.brokerproof_seed)).absolute())
        elif Path(config.option.brokerproof_run_dir).exists() and not config.option.brokerproof_resume:
            raise pytest.UsageError(
                f"run folder {config.option.brokerproof_run_dir!r} exists; name another, or `brokerproof check` it"
            )
    for name in config.option.brokerproof_schedule:
        if name not in schedules():
            raise pytest.UsageError(str(unknown("schedule", name, schedules())))
    config.pluginmanager.register(_Cells(config), "brokerproof-cells")


def targets(texts: Sequence[str]) -> list[tuple[str, str]]:
    """(product, version) of each ``--brokerproof-broker``. Raises UsageError for what does not exist."""
    return [parse_target(text) for text in texts or REAL]


# -- items -------------------------------------------------------------------------------------------------------------


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: Any) -> list[pytest.Item] | None:
    case = getattr(obj, "brokerproof_case", None)
    if case is not None:
        from brokerproof.conformance.running import Target
        from brokerproof.pytest_cases import items_of

        adoption = adoption_of(collector.config)
        chosen = [Target(product, version, adoption) for product, version in _chosen(collector.config)]
        return list(items_of(collector, name, case, chosen))
    found = getattr(obj, "brokerproof", None)
    if not isinstance(found, Declared):
        return None
    return list(_cells_of(collector, name, found))


def _asked_for_its_version(config: pytest.Config) -> str:
    """Of the target, by connecting to it; "" without one."""
    if config.option.brokerproof_target is None:
        if config.option.brokerproof_allow_destructive:
            raise pytest.UsageError(
                "--brokerproof-allow-destructive is about a --brokerproof-target; brokers of our own are broken anyway"
            )
        return ""
    if config.option.brokerproof_broker:
        raise pytest.UsageError("--brokerproof-target and --brokerproof-broker: a run is about one of them")
    if getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(
            "-n with --brokerproof-target: one process decides one cell at a time there, or the load would add up"
        )
    try:
        target = load(Path(config.option.brokerproof_target))
        return adopting(target.product).version_of(target)
    except HarnessError as exc:
        raise pytest.UsageError(str(exc)) from exc


def adoption_of(config: pytest.Config) -> Adoption | None:
    """The target of this run, if it has one."""
    if config.option.brokerproof_target is None:
        return None
    target = load(Path(config.option.brokerproof_target))
    return Adoption(target, config.option.brokerproof_target_version, config.option.brokerproof_allow_destructive)


def _chosen(config: pytest.Config) -> list[tuple[str, str]]:
    if (adoption := adoption_of(config)) is not None:
        return [(adoption.product, adoption.version)]
    try:
        return targets(config.option.brokerproof_broker)
    except UsageError as exc:
        raise pytest.UsageError(str(exc)) from exc


def _cells_of(collector: Any, name: str, found: Declared) -> Iterator[pytest.Item]:
    option = collector.config.option
    if option.brokerproof_select and not any(
        s in (found.claim.id, found.claim.section) for s in option.brokerproof_select
    ):
        return
    if option.brokerproof_profile not in found.profiles or (found.on_request and not option.brokerproof_select):
        return
    for product, version in _chosen(collector.config):
        for variant in found.brokers.get(product, ()):
            if (option.brokerproof_variant and variant not in option.brokerproof_variant) or (
                option.brokerproof_profile == "quick" and variant in found.longer
            ):
                continue
            for under in option.brokerproof_schedule or [""]:
                cell = Cell(
                    claim=found.claim, broker=product, version=version, variant=variant, profile=option.brokerproof_profile,
                    seed=option.brokerproof_seed,
                )  # fmt: skip
                if under:
                    if not _takes_a_schedule(found, cell):
                        continue
                    cell = cell.under(under)
                tail = "-".join(p for p in (product, version, cell.variant) if p)
                item = CellItem.from_parent(collector, name=f"{name}[{tail}]")
                item.prepare(found, cell)
                yield item


def _takes_a_schedule(found: Declared, cell: Cell) -> bool:
    """Only of a promise something is said by any fault: a hazard's own is what it is about. And a claim without a fault
    has arms that are about something else."""
    if found.claim.kind != "promise":
        return False
    made = found.decide(cell)
    return isinstance(made, Experiment) and bool(made.schedule)


class UnexpectedVerdict(Exception):
    """A cell's verdict is not the expected one; the text is the report's."""


class CellItem(pytest.Item):
    """One cell. ``runtest`` decides it."""

    cell: Cell
    entry: dict[str, Any] | None = None

    def prepare(self, found: Declared, cell: Cell) -> None:
        self._decide = found.decide
        self.cell = replace(cell, node_id=self.nodeid)
        capabilities = broker(cell.broker).capabilities
        missing = without(cell.broker, cell.version, found.needs)
        #: What the product lacks for it, in a sentence; empty when nothing.
        self.missing = f"{cell.broker} {cell.version} has no {', '.join(missing)}" if missing else ""
        self.adoption = adoption_of(self.config)
        if self.adoption is not None:
            self.missing = self.missing or self.adoption.lacks(found.needs)
        self._under: Schedule = ()
        if cell.schedule:
            own = self._own()
            nodes = 1 if isinstance(own, Experiment) and own.topology == "single" else 3
            peers = "peers" in capabilities
            ground = Ground(seed=cell.seed, peers=peers, limits=Limits(nodes=nodes))
            self._under = named(cell.schedule, ground)
            self.missing = self.missing or lacking(
                cell.schedule, self._under, peers=peers, equipped="in_process" not in capabilities
            )  # fmt: skip
        self.add_marker(pytest.mark.cell)
        self.extra_keyword_matches.update({cell.broker, found.claim.id, found.claim.kind, cell.variant or "default"})

    def _own(self) -> Any:
        return self._decide(replace(self.cell, variant=self.cell.own_variant, schedule=""))

    def experiment(self) -> Experiment | PropertyExperiment | ComparisonExperiment:
        found = self._own()
        if self.adoption is not None:
            found = self.adoption.within(found)
        if self._under and isinstance(found, Experiment):
            pace = configurations(self.cell.broker).pace
            return found.under(paced(self._under, pace), pace)
        if not isinstance(found, (Experiment, PropertyExperiment, ComparisonExperiment)):
            raise HarnessError(f"{self.nodeid}: a claim returns an Experiment, this one {type(found).__name__}")
        return found

    def runtest(self) -> None:
        from brokerproof import run  # imports the drivers only when a cell is decided

        session = _Cells.of(self.config).session(self.session)
        if self.missing:
            self.entry = run.unsupported(session, self.cell, self.missing)
            pytest.skip(f"UNSUPPORTED: {self.entry['reason']}")
        try:
            experiment = self.experiment()
            if absent := run.lacking(experiment, self.cell.broker, self.adoption, version=self.cell.version):
                self.entry = run.unsupported(session, self.cell, absent)
                pytest.skip(f"UNSUPPORTED: {absent}")
            self.entry = run.decide(session, self.cell, experiment)
        except Exception as exc:
            # Ours or a bug: either way the run has a hole, and results.json must say so.
            what = str(exc) if isinstance(exc, HarnessError) else f"{type(exc).__name__}: {exc}"
            session.folder.write_error(self.cell.slug, what)
            session.say(self.cell.slug, f"harness error: {what}")
            raise
        if not self.entry["as_expected"]:
            raise UnexpectedVerdict(
                f"{self.cell.claim.id} on {self.cell.broker} {self.cell.version} {self.cell.variant}: "
                f"{self.entry['verdict']}, {expectation(self.entry)}\n  {self.entry['reason']}\n"
                f"  again: {self.entry['command']}"
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, (UnexpectedVerdict, HarnessError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


class _Cells:
    """What this process holds for its cells; the controller folds the results and writes the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session: Any = None
        self.folder = RunFolder(Path(config.option.brokerproof_run_dir))
        self.results: dict[str, Any] | None = None
        #: Slug of each experiment of one's own -> the test that it is.
        self.own_experiments: dict[str, str] = {}

    @classmethod
    def of(cls, config: pytest.Config) -> _Cells:
        found = config.pluginmanager.get_plugin("brokerproof-cells")
        assert isinstance(found, cls)
        return found

    def session(self, session: pytest.Session) -> Any:
        if self._session is None:
            from brokerproof import run
            from brokerproof.runtime import sweep

            adoption = adoption_of(self._config)
            self.folder.create(
                seed=self._config.option.brokerproof_seed, command=self._config.option.brokerproof_run_command,
                target=adoption.target.identity(adoption.version) if adoption is not None else None,
            )  # fmt: skip
            sweep.register(self.folder.mark, owner=self._config.option.brokerproof_run_owner, folder=self.folder.path)
            if os.getpid() != self._config.option.brokerproof_run_owner:
                # A worker goes on for a while when its controller is killed, and would start more.
                sweep.register_process(self.folder.mark, os.getpid())
            sweep.clean()  # what killed runs left; a living one is never touched
            if adoption is not None:
                self._remove_leftovers(adoption)
            self._session = run.Session(
                self.folder,
                expected_in=self.expected_in(),
                progress=self._say,
                upcoming=list(_experiments(session.items)),
                live=self._config.option.brokerproof_live,
                fail_fast=self._config.option.brokerproof_fail_fast,
                adoption=adoption,
            )
        return self._session

    def _remove_leftovers(self, adoption: Adoption) -> None:
        """Of killed runs, on the target. Raises UsageError where others have something under our prefix."""
        from brokerproof.runtime.journal import Journal

        target, journal = adoption.target, Journal(adoption.target.key)
        product = adopting(target.product)
        journal.gone(product.remove(target, journal.left_by_the_dead()))
        if others := product.foreign(target):
            raise UsageError(others)

    def expected_in(self) -> Path:
        return (
            Path(self._config.option.brokerproof_expected)
            if self._config.option.brokerproof_expected
            else self.suites() / "expected"
        )

    def suites(self) -> Path:
        from brokerproof.suites import suites

        return suites()

    def _say(self, cell: str, what: str) -> None:
        self.folder.progress(t=time.time(), pid=os.getpid(), cell=cell, what=what)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Cases by target, which shares a cluster. What a resumed run has decided is not decided again."""
        items.sort(key=lambda i: (t.product, t.version) if (t := getattr(i, "target", None)) is not None else ("", ""))
        if not config.option.brokerproof_resume:
            return
        decided = {entry["slug"] for entry in self.folder.cells()}
        left = [i for i in items if not (isinstance(i, CellItem) and i.cell.slug in decided)]
        config.hook.pytest_deselected(items=[i for i in items if i not in left])
        items[:] = left

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Controller of pytest-xdist: every worker belongs to this run."""
        option = self._config.option
        node.workerinput["brokerproof_seed"] = option.brokerproof_seed
        node.workerinput["brokerproof_run"] = option.brokerproof_run_dir
        node.workerinput["brokerproof_owner"] = option.brokerproof_run_owner
        node.workerinput["brokerproof_command"] = option.brokerproof_run_command
        node.workerinput["brokerproof_target_version"] = option.brokerproof_target_version

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """One worker per product: its cells share that worker's clusters, and the products run side by side.

        The group marks of pytest-xdist 3.8 do nothing under pytest 9.2, which no longer lets a plugin rename items.
        """
        if config.getvalue("dist") != "loadgroup":
            return None
        from xdist.scheduler import LoadScopeScheduling

        class ByProduct(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
            def _split_scope(self, nodeid: str) -> str:
                product = nodeid.rpartition("[")[2].partition("-")[0]
                return product if product in products() else nodeid

        return ByProduct(config, log)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        conductors = self._config.pluginmanager.get_plugin("brokerproof-conductors")
        if conductors is not None:
            conductors.close()
        if self._session is not None:
            self._session.close()
        if self._config.option.brokerproof_run_owner != os.getpid() or not (self.folder.path / "run.json").exists():
            return
        from brokerproof.render import render_all
        from brokerproof.runtime import sweep

        sweep.clean(self.folder.mark)
        if (adoption := adoption_of(self._config)) is not None:
            target = adoption.target
            held = [target.password, *([target.tls.key_password] if target.tls is not None else [])]
            if spilt := wipe(self.folder.path, held):
                names = ", ".join(str(file.relative_to(self.folder.path)) for file in spilt[:5])
                self.folder.write_error(
                    "credentials",
                    f"a credential stood in {len(spilt)} files ({names}); it is overwritten there. Please report it",
                )
        if any(next(self.folder.path.joinpath(where).glob("*.json"), None) for where in ("cells", "cases")):
            self.results = self.folder.fold(interrupted=_cut_short(session, exitstatus))
            render_all(self.folder.path)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.results is not None:
            terminalreporter.write_line(f"report: {self.folder.path / 'report' / 'index.html'}")


def _cut_short(session: pytest.Session, exitstatus: int) -> bool:
    """Whether something is left that nobody decided. Who asked to stop at so many failures has what was asked for."""
    enough = session.config.getoption("maxfail", 0)
    if enough and session.testsfailed >= enough:
        return False
    return exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)


def _experiments(items: Iterable[pytest.Item]) -> Iterator[tuple[Cell, Experiment]]:
    """The cells among the items that have arms, in order."""
    for item in items:
        if isinstance(item, CellItem) and not item.missing:
            experiment = item.experiment()
            if isinstance(experiment, Experiment):
                yield item.cell, experiment


# -- ``brokerproof run`` -----------------------------------------------------------------------------------------------


def run_pytest(
    *, brokers: Sequence[str], select: Sequence[str], profile: str, variant: Sequence[str], seed: int | None,
    run_dir: Path | None, expected: Path | None, workers: int, live: bool = False, fail_fast: bool = False,
    schedule: Sequence[str] = (), resume: bool = False, target: Path | None = None, destructive: bool = False,
) -> int:  # fmt: skip
    """Runs the claims with pytest and shows the run in our own way; returns the exit code of its results."""
    seed = _seed(seed)
    asked = ["--profile", profile, "--seed", str(seed), *_each("--broker", brokers), *_of_target(target, destructive)]
    asked += [*_each("--select", select), *_each("--variant", variant), *_each("--schedule", schedule)]
    flags = (["--live"] if live else []) + (["--resume"] if resume else []) + (["--fail-fast"] if fail_fast else [])
    args = [*_for_pytest([*asked, *flags]), *(["--exitfirst"] if fail_fast else [])]
    folder = _folder(run_dir, seed)
    going_on = f", going on after {len(folder.cells())} verdicts" if resume else ""
    return _run_suite(
        "claims", folder, args, asked, expected=expected, workers=workers, command="run",
        heading=f"{', '.join(brokers) or f'target {target}'}, profile {profile}, seed {seed}{going_on}",
        nothing="no cell matches: `brokerproof list claims` shows brokers, variants and profiles",
    )  # fmt: skip


def run_cases(
    *, brokers: Sequence[str], case: Sequence[str], section: Sequence[str], level: Sequence[str], tag: Sequence[str],
    variant: Sequence[str], strict: bool, seed: int | None, run_dir: Path | None, expected: Path | None,
    target: Path | None = None,
) -> int:  # fmt: skip
    """Runs the protocol cases with pytest and shows the run in our own way; returns the exit code of its results."""
    seed = _seed(seed)
    asked = [
        *_each("--broker", brokers),
        *_of_target(target, False),
        *_each("--case", case),
        *_each("--section", section),
    ]
    asked += [*_each("--level", level), *_each("--tag", tag), *_each("--variant", variant)]
    args = _for_pytest(["--seed", str(seed), *asked, *(["--nonstrict-fails"] if strict else [])])
    asked += ["--strict"] if strict else []
    return _run_suite(
        "conformance", _folder(run_dir, seed), args, asked, expected=expected, command="conformance",
        workers=len({b.partition("=")[0] for b in brokers}),
        heading=f"protocol cases on {', '.join(brokers) or f'target {target}'}, seed {seed}",
        nothing="no case matches: `brokerproof conformance --list` shows them",
    )  # fmt: skip


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _for_pytest(words: Sequence[str]) -> list[str]:
    """Our options as pytest has them, beside those of its other plugins."""
    return [word.replace("--", "--brokerproof-", 1) if word.startswith("--") else word for word in words]


def _of_target(target: Path | None, destructive: bool) -> list[str]:
    if target is None:
        return []
    return ["--target", str(target.absolute()), *(["--allow-destructive"] if destructive else [])]


def _seed(seed: int | None) -> int:
    return random.SystemRandom().randrange(1, 100_000) if seed is None else seed


def _folder(run_dir: Path | None, seed: int) -> RunFolder:
    return RunFolder((Path("runs", new_run_id(seed)) if run_dir is None else run_dir).absolute())


def _run_suite(
    suite: str, folder: RunFolder, args: Sequence[str], asked: Sequence[str], *, expected: Path | None, workers: int,
    command: str, heading: str, nothing: str,
) -> int:  # fmt: skip
    """Runs one folder of the suites; returns the exit code of its results. asked: as a person types it."""
    from brokerproof import show
    from brokerproof.results import EXIT_HARNESS, EXIT_USAGE, exit_code, load_json
    from brokerproof.suites import suites

    console = show.console(sys.__stdout__)
    path = folder.path
    # An ini file of the suite's own: the caller's pytest settings are about the caller's tests.
    ini = suites() / "claims" / "pytest.ini"
    told = ["--expected", str(expected.absolute())] if expected is not None else []
    args = [
        str(suites() / suite), "-c", str(ini), "-p", "no:cacheprovider", "-s", *args,
        *_for_pytest(["--run-dir", str(path), *told]),
    ]  # fmt: skip
    if workers > 1:
        args += ["-n", str(workers), "--dist", "loadgroup"]
    if "brokerproof.pytest_plugin" not in {p.value for p in _installed_plugins()}:
        args += ["-p", "brokerproof.pytest_plugin"]
    show.say(console, f"run {folder.id}: {heading}")
    os.environ[_COMMAND] = shlex.join(["brokerproof", command, *asked, *told])
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.parent / f".{path.name}.pytest.log"
    # A polite kill is an interrupt: everything that was started goes through the same way out.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with log.open("w") as file, contextlib.redirect_stdout(file), show.Watch(console, folder):
            code = pytest.main(args)
    finally:
        signal.signal(signal.SIGTERM, before)
    said = log.read_text()
    log.unlink()
    if path.is_dir():
        (path / "logs").mkdir(exist_ok=True)
        (path / "logs" / "pytest.log").write_text(said)
    if not (path / "results.json").exists():
        if code == pytest.ExitCode.INTERRUPTED:
            again = (
                f"; `brokerproof run --resume {_shown(path)}` goes on with it"
                if command == "run" and path.is_dir()
                else ""
            )
            show.say(console, f"interrupted; nothing was decided yet, everything that was started is removed{again}")
            return 130
        none = code in (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR)
        reason = nothing if none else "\n".join(said.strip().splitlines()[-25:])
        show.say(console, f"brokerproof: nothing was decided: {reason}")
        return EXIT_USAGE if none else EXIT_HARNESS
    results = load_json(path / "results.json")
    shown = _shown(path)
    written = {"report": shown / "report" / "index.html", "results": shown / "results.json"}
    show.print_results(console, results, shown, written)
    if code == pytest.ExitCode.INTERRUPTED:
        console.print("interrupted; what was decided until then is above, everything that was started is removed")
        return 130
    return exit_code(results)


def _installed_plugins() -> Iterable[Any]:
    from importlib.metadata import entry_points

    return entry_points(group="pytest11")


def _shown(path: Path) -> Path:
    """The path as a person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
