"""Section *amqp*: exchanges, as properties: generated bindings and routing keys, the broker against the claim's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st

from brokerproof.brokers.base import SupportsRouting, configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, PropertyExperiment, PropertyResult

Model = Callable[[str, str], bool]

#: Few letters, so that keys and patterns meet often; empty words too, since a key may start, end or go on with a dot.
_WORDS = st.sampled_from(["a", "b", "", "ab"])
_KEYS = st.lists(_WORDS, min_size=0, max_size=4).map(".".join)
_PATTERNS = st.lists(st.one_of(_WORDS, st.sampled_from(["*", "#"])), min_size=0, max_size=4).map(".".join)
#: Routing keys tried against each set of bindings: a case is one of both.
_KEYS_PER_CASE = 8


def words_of(text: str) -> list[str]:
    """The words of a routing key or pattern: an empty one has none, and every dot ends a word (AMQP 0-9-1, 3.1.3.3)."""
    return text.split(".") if text else []


def topic(least_for_hash: int) -> Model:
    """``*`` matches one word, ``#`` as many as there are, but at least ``least_for_hash``."""

    def matches(pattern: list[str], words: list[str]) -> bool:
        if not pattern:
            return not words
        if pattern[0] == "#":
            return any(matches(pattern[1:], words[n:]) for n in range(least_for_hash, len(words) + 1))
        return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])

    return lambda pattern, key: matches(words_of(pattern), words_of(key))


def agree(
    exchange: str, patterns: st.SearchStrategy[str], model: Model
) -> Callable[[SupportsRouting, int, int], PropertyResult]:
    """The check of a property: on every generated case the cluster routes as the model says."""

    def check(cluster: SupportsRouting, seed: int, cases: int) -> PropertyResult:
        tried = 0
        example: dict[str, Any] = {}

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=max(1, cases // _KEYS_PER_CASE), deadline=None, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            # Not "explain": it traces every line of hundreds of further runs, and says nothing of a broker.
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        )  # fmt: skip
        @hypothesis.given(
            bindings=st.lists(patterns, min_size=1, max_size=4, unique=True),
            keys=st.lists(_KEYS, min_size=1, max_size=_KEYS_PER_CASE, unique=True),
        )
        def case(bindings: list[str], keys: list[str]) -> None:
            nonlocal tried
            tried += len(keys)
            for key, got in zip(keys, router.route(bindings, keys), strict=True):
                want = {n for n, binding in enumerate(bindings) if model(binding, key)}
                if set(got) != want:
                    example.clear()
                    example.update(
                        exchange=exchange, bindings=bindings, routing_key=key,
                        claimed=[bindings[n] for n in sorted(want)], got=[bindings[n] for n in sorted(got)],
                    )  # fmt: skip
                    raise AssertionError(f"{exchange} exchange: {example}")

        try:
            with cluster.router(exchange) as router:
                case()
        except AssertionError:
            # Hypothesis runs the shrunk case last, so ``example`` is the smallest.
            return PropertyResult(cases=tried, counterexample=dict(example))
        return PropertyResult(cases=tried)

    return check


def _property(
    cell: Cell, exchange: str, patterns: st.SearchStrategy[str], model: Model, mutant: str
) -> PropertyExperiment:
    return PropertyExperiment(
        topology=configurations(cell.broker).topology, check=agree(exchange, patterns, model), mutant=mutant,
        cases={"quick": 400, "standard": 2000, "thorough": 10000},
    )  # fmt: skip


@claim(
    "amqp/topic-star-hash", revision=1, kind="property",
    sentence="Topic exchange: * matches exactly one word, # one or more.",
    source="S2", brokers={"rabbitmq": ("",), "memory": ("",)}, needs=("exchanges",),
)  # fmt: skip
def test_topic_star_hash(cell: Cell) -> PropertyExperiment:
    return _property(cell, "topic", _PATTERNS, topic(1), "matches-nothing-with-hash")


@claim(
    "amqp/topic-star-hash--zero-or-more", revision=1, kind="property",
    sentence="Topic exchange: * matches exactly one word, # zero or more.",
    source="AMQP 0-9-1, section 3.1.3.3", brokers={"rabbitmq": ("",), "memory": ("",)},
    sharpens="amqp/topic-star-hash", needs=("exchanges",),
)  # fmt: skip
def test_topic_star_hash_zero_or_more(cell: Cell) -> PropertyExperiment:
    return _property(cell, "topic", _PATTERNS, topic(0), "matches-too-little")


@claim(
    "amqp/direct-exact", revision=1, kind="property",
    sentence="Direct exchange: a message goes to the queues whose binding key equals its routing key.",
    source="S2 S4; AMQP 0-9-1, section 3.1.3.1", brokers={"rabbitmq": ("",), "memory": ("",)}, needs=("exchanges",),
)  # fmt: skip
def test_direct_exact(cell: Cell) -> PropertyExperiment:
    return _property(cell, "direct", _KEYS, lambda binding, key: binding == key, "ignores-the-last-word")


@claim(
    "amqp/fanout-all", revision=1, kind="property",
    sentence="Fanout exchange: every bound queue gets a copy, whatever the key.",
    source="S2 S4; AMQP 0-9-1, section 3.1.3.2", brokers={"rabbitmq": ("",), "memory": ("",)}, needs=("exchanges",),
)  # fmt: skip
def test_fanout_all(cell: Cell) -> PropertyExperiment:
    return _property(cell, "fanout", _KEYS, lambda binding, key: True, "forgets-the-last-binding")
