"""The fixtures of experiments of one's own, and the hook that calls such a test once for each arm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from brokerproof.errors import HarnessError

if TYPE_CHECKING:  # they bring the drivers with them, and this module is loaded with every pytest
    from brokerproof.own.faults import Faults
    from brokerproof.own.recording import Recording
    from brokerproof.own.stage import Arm, Effects, Stage
    from brokerproof.own.target import Target

_NEEDS = ("arm", "history")


@pytest.fixture
def brokerproof_stage(request: pytest.FixtureRequest) -> Stage:
    """Where the arms of this test run; for the other fixtures."""
    from brokerproof.experiment import Cell
    from brokerproof.own.stage import Stage

    own = getattr(request.function, "brokerproof_own", None)
    if own is None:
        raise pytest.UsageError(
            f"{request.node.nodeid} uses fixtures of brokerproof's experiments; mark it with @experiment(...) from "
            "brokerproof.own: arms and a control are what makes a result of it"
        )
    plugin: Any = request.config.pluginmanager.get_plugin("brokerproof-cells")
    option = request.config.option
    # A test with parameters is an experiment for each of them.
    callspec = getattr(request.node, "callspec", None)
    variant = re.sub(r"[^A-Za-z0-9.]+", "-", callspec.id).strip("-") if callspec is not None else ""
    cell = Cell(
        claim=own.claim, broker="", version="", variant=variant, profile=option.brokerproof_profile, seed=option.brokerproof_seed,
        node_id=request.node.nodeid,
    )  # fmt: skip
    return Stage(plugin.session(request.session), own, cell)


@pytest.fixture
def arm(brokerproof_stage: Stage) -> Arm:
    """Which arm runs: ``arm.of(treatment=..., control=...)``."""
    return brokerproof_stage.arm


@pytest.fixture
def history(brokerproof_stage: Stage) -> Recording:
    """Where the test says what happened: ``history.sending(id)``, ``history.world({id: times})``."""
    return brokerproof_stage.history


@pytest.fixture
def faults(brokerproof_stage: Stage) -> Faults:
    """``with faults("kill", target="one"): ...``, ``faults.at(1.0, "kill", for_s=3.0)``, ``faults.over()``."""
    return brokerproof_stage.faults


@pytest.fixture
def effects(brokerproof_stage: Stage) -> Effects:
    """Real databases: ``effects.store("postgresql")``, ``effects.guard("dedup_table")``."""
    return brokerproof_stage.effects


def _broker(product: str) -> Callable[..., Iterator[Target]]:
    @pytest.fixture(name=product)
    def fixture(request: pytest.FixtureRequest, brokerproof_stage: Stage) -> Iterator[Target]:
        from brokerproof.brokers.base import parse_target

        if request.config.option.brokerproof_target is not None:
            raise pytest.UsageError(
                "experiments of one's own are not run on a --brokerproof-target; `--brokerproof-broker` starts a broker for them"
            )
        named = dict(parse_target(text) for text in request.config.option.brokerproof_broker)
        mark = request.node.get_closest_marker("broker")
        asked: dict[str, Any] = dict(mark.kwargs) if mark is not None else {}
        if odd := sorted(set(asked) - {"topology", "settings", "version"}):
            raise pytest.UsageError(f"pytest.mark.broker takes topology, settings and version, not {', '.join(odd)}")
        version = asked.get("version") or named.get(product) or parse_target(product)[1]
        with brokerproof_stage.on(
            product, version, asked.get("topology", "single"), dict(asked.get("settings", {}))
        ) as target:  # fmt: skip
            plugin: Any = request.config.pluginmanager.get_plugin("brokerproof-cells")
            slug = brokerproof_stage.cell.slug
            other = plugin.own_experiments.setdefault(slug, request.node.nodeid)
            if other != request.node.nodeid:
                raise pytest.UsageError(f"{other} is the experiment {slug}, too; ids are unique on a broker")
            yield target

    fixture.__doc__ = (
        f"A {product} of this run, through Toxiproxy; ``@pytest.mark.broker(topology=..., settings=..., version=...)``."
    )
    return fixture


rabbitmq, kafka, rocketmq, memory = [_broker(product) for product in ("rabbitmq", "kafka", "rocketmq", "memory")]


class ExperimentFailed(Exception):
    """The verdict is not the expected one; the text is the report's."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if getattr(pyfuncitem.obj, "brokerproof_own", None) is None:
        return None
    if missing := [name for name in _NEEDS if name not in pyfuncitem.fixturenames]:
        raise pytest.UsageError(f"{pyfuncitem.nodeid} is an experiment and does not take {', '.join(missing)}")

    stage: Stage = cast("Stage", pyfuncitem.funcargs["brokerproof_stage"])
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        entry = stage.play(lambda: pyfuncitem.obj(**arguments))
    except Exception as exc:
        what = str(exc) if isinstance(exc, HarnessError) else f"{type(exc).__name__}: {exc}"
        stage.session.folder.write_error(stage.cell.slug, what)
        raise
    if not entry["as_expected"]:
        raise ExperimentFailed(
            f"{stage.cell.claim.id} on {stage.cell.broker} {stage.cell.version}: {entry['verdict']}, expected "
            f"{entry['expected']}\n  {entry['reason']}"
        )
    return True
