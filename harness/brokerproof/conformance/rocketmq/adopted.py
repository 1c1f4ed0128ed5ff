"""RocketMQ's cases on a broker that somebody else runs, its name servers and its gRPC proxy: at their own addresses, each request
signed where the target file has an access key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Thing
from brokerproof.brokers.rocketmq import access, remoting
from brokerproof.brokers.rocketmq.adopted import gateway_of, let_in, talk
from brokerproof.conformance.adopted import Belongings, not_given
from brokerproof.conformance.case import Case
from brokerproof.conformance.rocketmq.after import unlike_before
from brokerproof.conformance.rocketmq.place import Address
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.conformance.scene import Scene
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.target import Target, joined


class AdoptedPlace:
    """As much of ``place.Place`` as clients can have of it. broker_name: of the one broker."""

    def __init__(self, target: Target, broker_name: str) -> None:
        servers = {f"ns{n}": at for n, at in enumerate(target.name_servers, 1)}
        self.brokers: Sequence[str] = list(target.nodes)
        self.name_servers: Sequence[str] = list(servers)
        self.broker_name = broker_name
        self.access = access.of(target)
        self._addresses = {**{node.name: node.address for node in target.nodes.values()}, **servers}
        self._gateway = gateway_of(target)

    def address(self, node: str) -> Address:
        return self._addresses[node]

    def proxy(self) -> Address:
        return self._gateway

    def master(self) -> str:
        return self.brokers[0]

    def __getattr__(self, name: str) -> Any:
        raise not_given(f"a hand on the nodes ({name})", "rocketmq")


class AdoptedGround:
    """``conformance.scene.Ground``."""

    product = "rocketmq"

    def __init__(self, adoption: Adoption, run: str) -> None:
        """Raises UsageError for a cluster of several brokers, or a user who is not let in; EnvironmentProblem where nobody answers."""
        target = adoption.target
        self.version = adoption.version
        self._target, self._belongings = target, Belongings(adoption, run)
        self._secret = access.pair(access.of(target))[1]
        self._place = AdoptedPlace(target, self._alone())
        self._bystanders: dict[int, Remote] = {}

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        log.hides = (self._secret,) if self._secret else ()
        name = self._belongings.name()
        # What brokers make by themselves is removed by the name that it begins with; there is no topic of just this name.
        things = [Thing("topic", name)]
        self._belongings.making(things)
        scene = RocketmqScene(
            case, place=self._place, variant=variant, condition=condition, product=self.product, version=self.version,
            name=name, log=log, stop=stop, way=self._belongings.way(lambda name: self._belongings.named(things, name)),
        )  # fmt: skip
        try:
            if case.watched(condition):
                self._bystanders[id(scene)] = scene.spared("bystander")
            yield scene
        finally:
            self._bystanders.pop(id(scene), None)
            scene.close()
            self._belongings.remove(things)

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, RocketmqScene)
        return unlike_before(scene, self._bystanders.get(id(scene)))

    def close(self) -> None:
        self._belongings.close()

    def _alone(self) -> str:
        """The broker's name, by which messages and receipt handles say where they are."""
        target = self._target
        node = next(iter(target.nodes.values()))
        with let_in(target):
            with talk(target, node.address) as to:
                told = remoting.properties(to.call(remoting.GET_BROKER_CONFIG, {}).body)
            name = told["brokerName"]
            known: set[str] = set()
            for server in target.name_servers:
                with talk(target, server) as to:
                    mates = remoting.mates(to, name)
                if not mates:
                    raise EnvironmentProblem(
                        f"name server {joined(server)} does not know {name}, which {joined(node.address)} says that it is; "
                        f"`brokerproof target check {target.path}`"
                    )
                known |= mates
        if len(known) > 1 or len(target.nodes) > 1:
            raise UsageError(
                f"{target.path}: protocol cases are spoken to one broker, and this cluster has {', '.join(sorted(known))} (the file names "
                f"{', '.join(target.nodes)}): the gRPC proxy would ask another one. Give a broker that is alone; `--broker rocketmq` has "
                "cases on several"
            )
        return name


def on_target(adoption: Adoption, run: str) -> AdoptedGround:
    return AdoptedGround(adoption, run)
