"""What every product says of itself."""

from __future__ import annotations

import pytest

from brokerproof.brokers.base import broker, products, without
from brokerproof.versions import applies


@pytest.mark.parametrize(
    ("version", "needs", "missing"),
    [
        ("3.10.8", ("mirrored", "leader"), []),
        ("4.0.5", ("mirrored", "leader"), ["mirrored"]),
        ("4.0.5", ("slave", "mirrored"), ["mirrored", "slave"]),
        ("3.10.8", ("consumer_timeout_of_a_queue",), ["consumer_timeout_of_a_queue"]),
        ("4.0.5", ("consumer_timeout_of_a_queue",), []),
    ],
)
def test_a_version_may_lack_what_another_has(version: str, needs: tuple[str, ...], missing: list[str]) -> None:
    assert without("rabbitmq", version, needs) == missing


@pytest.mark.parametrize("product", products())
def test_versions_are_told_of_capabilities_that_there_are_and_that_one_version_has(product: str) -> None:
    found = broker(product)
    for capability, where in found.capability_versions.items():
        assert capability in found.capabilities
        assert any(applies(where, product, version) for version in found.versions)
