"""Model-based tests on a ground: Hypothesis does the same to a broker and to a model, in any order, and compares.

A machine is a subclass of ``Machine``, in a module of its own protocol: ``amqp091/machine.py`` (queues,
acknowledgements), ``amqp091/machine_routing.py`` (exchanges, bindings), ``kafka/machine_log.py``, ``kafka/machine_groups.py``, ``rocketmq/machine_fifo.py``, ``rocketmq/machine_delay.py``.
Only what model and every vendor agree on is done; where they differ there are cases. Rules take plain values, never ``st.data()``:
what was drawn in a rule could not be written down as its argument, and the counter-example would be no script.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from brokerproof.conformance.case import Case, case, must
from brokerproof.conformance.scene import Ground, Scene
from brokerproof.conformance.wirelog import WireLog

_LIMIT_S = 600.0


def stand_in(id: str, slug: str, requirement: str) -> Case:
    """What stands for a machine where a scene wants a case; its script is Hypothesis. It is no case of the suites."""

    @case(id, slug, requirement=requirement, reference="model", level="MUST", accepts={"": must()}, limit_s=_LIMIT_S)
    def script(scene: Scene) -> None:
        """The machine plays."""

    made: Case = script.brokerproof_case  # type: ignore[attr-defined]  # put there by ``case``
    return made


class Machine(RuleBasedStateMachine):
    """scene: fresh for each example. ground: where, see ``check``. case: ``stand_in``."""

    ground: ClassVar[Ground]
    case: ClassVar[Case]

    def __init__(self) -> None:
        super().__init__()
        self._held_open = contextlib.ExitStack()
        self.scene: Any = self._held_open.enter_context(
            self.ground.scene(self.case, variant="", condition="", log=WireLog(), stop=lambda: False)
        )
        self._held_open.callback(self.scene.close)

    def ends(self) -> None:
        """What has to hold when all is done; not asked after something went wrong."""

    def teardown(self) -> None:
        try:
            # Hypothesis tears down either way, and what went wrong is then still on its way out.
            if sys.exc_info()[0] is None:
                self.ends()
        finally:
            self._held_open.close()


def check(
    machine: type[Machine], ground: Ground, *, examples: int = 20, steps: int = 30, derandomize: bool = False, shrink: bool = True
) -> None:  # fmt: skip
    """Raises AssertionError where the broker does not do as the model does, and prints the way there as a script; shrink: the
    shortest that Hypothesis finds, which takes minutes."""
    played = type(machine.__name__, (machine,), {"ground": ground})
    try:
        run_state_machine_as_test(
            played,
            settings=settings(
                max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=derandomize, database=None,
                report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            ),
        )  # fmt: skip
    except Exception as exc:
        text = script(machine, ground, exc)
        exc.add_note(text)
        print(text)
        raise


def script(machine: type[Machine], ground: Ground, exc: BaseException) -> str:
    """The counter-example that Hypothesis noted with the exception, as a Python script. On a cluster its ground is to be opened."""
    steps = [note for note in getattr(exc, "__notes__", ()) if note.startswith("state")]
    mutant = getattr(ground, "mutant", None)
    opened = "on_cluster(cluster)  # of a running cluster" if mutant is None else f"on_reference({machine.case.protocol!r}, {mutant!r})"  # fmt: skip
    return "\n".join([
        f"# {type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else machine.case.requirement}",
        f"from {machine.__module__} import {machine.__name__}",
        f"from brokerproof.conformance.protocols import {opened.partition('(')[0]}",
        f"{machine.__name__}.ground = {opened}",
        *steps,
    ])  # fmt: skip
