from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokerproof.message import HEADER_BYTES, Bodies, Verifier, crc32c


def test_crc_is_the_one_of_the_standard() -> None:
    # RFC 3720, B.4: the check value of "123456789".
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"\x00" * 32) == 0x8A9136AA


@settings(deadline=None)
@given(
    trial=st.integers(0, 2**64 - 1), sender=st.integers(0, 2**31), size=st.integers(HEADER_BYTES, 300),
    first=st.integers(0, 2**62), keys=st.lists(st.integers(-1, 2**31 - 1), min_size=1, max_size=20),
)  # fmt: skip
def test_what_was_made_is_read_back(trial: int, sender: int, size: int, first: int, keys: list[int]) -> None:
    made = Bodies(trial=trial, sender=sender, seed=3, size=size).make(first, np.array(keys, dtype=np.int32))
    bodies = [made[i * size : (i + 1) * size] for i in range(len(keys))]
    verifier = Verifier(trial=trial, seed=3)
    for i, (body, key) in enumerate(zip(bodies, keys, strict=True)):
        read = verifier.read(body)
        assert (read.msg, read.key, read.sender, read.problem) == (first + i, key, sender, "")
        assert int.from_bytes(body[32:36], "little") == crc32c(body[:32] + body[36:])
    msgs, found = verifier.read_many(bodies)
    assert msgs.tolist() == list(range(first, first + len(keys)))
    assert found.tolist() == keys


@settings(deadline=None)
@given(at=st.integers(0, 63), bit=st.integers(0, 7), warm=st.booleans())
def test_any_changed_bit_is_seen(at: int, bit: int, warm: bool) -> None:
    bodies = Bodies(trial=9, sender=1, seed=3, size=64)
    body = bytearray(bodies.one(5, 2))
    verifier = Verifier(trial=9, seed=3)
    if warm:  # both ways through the verifier: by checksum, and by comparing with what the sender must have made
        assert verifier.read(bytes(body)).msg == 5
    body[at] ^= 1 << bit
    read = verifier.read(bytes(body))
    assert read.msg == -2
    assert read.problem


def test_one_changed_body_does_not_hide_in_a_batch() -> None:
    made = Bodies(trial=9, sender=1, seed=3, size=64).make(0, np.zeros(100, dtype=np.int32))
    bodies = [made[i * 64 : (i + 1) * 64] for i in range(100)]
    bodies[50] = bodies[50][:60] + b"oops"
    msgs, _ = Verifier(trial=9, seed=3).read_many(bodies)
    assert np.flatnonzero(msgs == -2).tolist() == [50]


def test_a_leftover_of_another_trial_is_seen() -> None:
    body = Bodies(trial=8, sender=1, seed=3, size=64).one(5, 2)
    assert Verifier(trial=9, seed=3).read(body).problem == "body of another trial"


@pytest.mark.parametrize("body", [b"", b"short", b"x" * 64])
def test_foreign_bodies_are_unreadable_not_errors(body: bytes) -> None:
    assert Verifier(trial=9, seed=3).read(body).msg == -2


def test_bodies_have_room_for_their_header() -> None:
    with pytest.raises(ValueError, match=f"at least {HEADER_BYTES} bytes"):
        Bodies(trial=1, sender=0, seed=0, size=10)
