"""Kafka's cases on brokers that somebody else runs: at the addresses that they tell, let in as the target file says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Thing
from brokerproof.brokers.kafka import access
from brokerproof.conformance.adopted import Belongings, not_given
from brokerproof.conformance.case import Case
from brokerproof.conformance.kafka.connection import Connection
from brokerproof.conformance.kafka.ground import after, versions_of
from brokerproof.conformance.kafka.sasl import exchanged
from brokerproof.conformance.kafka.scene import KafkaScene, Nodes, Versions
from brokerproof.conformance.link import Link
from brokerproof.conformance.scene import Scene, Skip
from brokerproof.conformance.way import Way
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem, UsageError

_ASK_S = 10.0


class AdoptedGround:
    """``scene.Ground`` and ``scene.Stage``."""

    product = "kafka"
    sasl: tuple[str, int] | None = None
    mechanisms: Sequence[str] = ()

    def __init__(self, adoption: Adoption, run: str) -> None:
        """Raises UsageError for a way of being let in that cases cannot go, EnvironmentProblem where nobody answers."""
        target = adoption.target
        if target.client_properties:
            raise UsageError(
                f"{target.path}: protocol cases speak for themselves and read no client properties; say user, mechanism and "
                "where the password is in [access], and files in [tls]"
            )
        self.version = adoption.version
        self._target, self._belongings = target, Belongings(adoption, run)
        settings = access.client(access.of(target))
        self._mechanism = str(settings.get("sasl.mechanism", ""))
        self._user, self._password = str(settings.get("sasl.username", "")), str(settings.get("sasl.password", ""))
        self._versions, self.addresses = self._told()
        if len(self.addresses) > 1:
            raise UsageError(
                f"{target.path}: protocol cases are spoken to one broker, and this cluster has {len(self.addresses)}: what another one "
                "leads would be refused, and counted against it. Give a broker that is alone; `--broker kafka` has cases on three"
            )

    # -- scene.Ground --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        self._hide(log)
        name = self._belongings.name()
        # Groups are removed by the name of a topic that theirs begin with; there is none of just this name.
        things = [Thing("topic", name)]
        self._belongings.making(things)
        scene = KafkaScene(
            case, self, self._versions, variant=variant, condition=condition, product=self.product, version=self.version,
            name=name, log=log, scale=1.0, stop=stop, way=self._belongings.way(lambda name: self._belongings.named(things, name)),
        )  # fmt: skip
        try:
            yield scene
        finally:
            scene.close()
            self._belongings.remove(things)

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, KafkaScene)
        return after(scene)

    def close(self) -> None:
        self._belongings.close()

    # -- scene.Stage ---------------------------------------------------------------------------------------------------

    def nodes(self) -> Nodes:
        raise not_given("a hand on the nodes", self.product)

    def let_in(self, link: Link) -> None:
        if not self._mechanism:
            return
        connection = Connection(link, {}, _ASK_S)

        def send(message: bytes) -> bytes:
            answer = connection.ask("sasl_authenticate", 1, auth_bytes=message)
            if answer.fields is None or answer.code:
                told = (answer.fields or {}).get("error_message") or answer.what()
                raise EnvironmentProblem(
                    f"kafka refuses {self._target.access_in_words()}: {told}; `brokerproof target check {self._target.path}`"
                )
            return bytes(answer.fields["auth_bytes"])

        said = connection.ask("sasl_handshake", 1, mechanism=self._mechanism)
        if said.fields is None or said.code:
            offered = ", ".join((said.fields or {}).get("mechanisms", ())) or "none"
            raise EnvironmentProblem(f"kafka offers no mechanism {self._mechanism}: {offered}")
        with link.unlogged(f"{self._mechanism} as {self._user!r}"):
            exchanged(self._mechanism, self._user, self._password, send)

    def vendor_writes(self, topic: str, keys: Sequence[str]) -> None:
        raise not_given("the vendor's own client beside the broker", self.product)

    def bootstrap(self) -> str:
        if self._mechanism or self._target.tls is not None:
            raise Skip("it uses a client library as well, which is given no credentials here")
        return ",".join(f"{host}:{port}" for host, port in self.addresses.values())

    # -- inside --------------------------------------------------------------------------------------------------------

    def _hide(self, log: WireLog) -> None:
        log.hides = (self._password,) if self._password else ()

    def _told(self) -> tuple[Versions, Mapping[int, tuple[str, int]]]:
        """Which versions the first broker serves, and where it says that the brokers are."""
        log = WireLog()
        self._hide(log)
        address = next(iter(self._target.nodes.values())).address
        way: Way = self._belongings.way(lambda name: None)
        link = Link(address, log=log, name="first", deadline=time.monotonic() + 3 * _ASK_S, way=way)
        try:
            self.let_in(link)
            versions = versions_of(Connection(link, {}, _ASK_S))
            answer = Connection(link, versions, _ASK_S).ask("metadata", topics=[])
            return versions, {b["node_id"]: (b["host"], b["port"]) for b in answer.need()["brokers"]}
        finally:
            link.close()


def on_target(adoption: Adoption, run: str) -> AdoptedGround:
    return AdoptedGround(adoption, run)
