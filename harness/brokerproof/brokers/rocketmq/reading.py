"""The final read: by the remoting protocol, queue by queue, from the lowest offset to the highest taken now.

What consumers have acknowledged is still in the log, so this reader sees everything that was stored. It reads the
masters, or a slave where the endpoint says so (its master is lost).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from brokerproof.brokers.base import ReadJob
from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.gateway import PROBE_BODY
from brokerproof.history import OK

_GROUP = "brokerproof-reader"
_RETRY_S = 0.2
_STABLE_S = 0.3


def read(job: ReadJob) -> None:
    """See ``brokers.base.ReadJob``."""
    deadline = time.monotonic() + job.deadline_s
    if all(_read_from(job, node, deadline) for node in job.endpoint["read_from"]):
        _say(job, "drained")


def _read_from(job: ReadJob, node: str, deadline: float) -> bool:
    """Whether that broker was read to its end."""
    host, port = job.endpoint["setup"][node]
    while time.monotonic() < deadline and not job.stopping():
        try:
            with (
                remoting.Connection((host, port), access=job.endpoint.get("access")) as to,
                _slave_reads(to, node not in job.endpoint["masters"]),
            ):
                return _Reading(job, to, deadline).run()
        except (OSError, remoting.ProtocolError) as exc:
            job.report(read_again=type(exc).__name__)
            time.sleep(_RETRY_S)
        except remoting.RemotingError as exc:
            if exc.code == remoting.TOPIC_NOT_EXIST:
                _say(job, "definition_lost")
                return False
            job.report(read_again=f"response code {exc.code}")
            time.sleep(_RETRY_S)
    return False


@contextlib.contextmanager
def _slave_reads(to: remoting.Connection, wanted: bool) -> Iterator[None]:
    """A slave refuses to be read unless ``slaveReadEnable``, which is off by default: on while we look, then off again.

    Source: PullMessageProcessor.rejectRequest.
    """
    if not wanted:
        yield
        return
    before = remoting.properties(to.call(remoting.GET_BROKER_CONFIG, {}).body).get("slaveReadEnable", "false")
    to.call(remoting.UPDATE_BROKER_CONFIG, {}, b"slaveReadEnable=true\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, remoting.ProtocolError, remoting.RemotingError):
            to.call(remoting.UPDATE_BROKER_CONFIG, {}, f"slaveReadEnable={before}\n".encode())


def _say(job: ReadJob, what: str) -> None:
    now = job.tape.now()
    job.tape.row("control", OK, start_ns=now, end_ns=now, lane=job.lane, error=what)


class _Reading:
    def __init__(self, job: ReadJob, to: remoting.Connection, deadline: float) -> None:
        self._job = job
        self._to = to
        self._deadline = deadline
        self._verifier = job.verifier()
        self._batch = -1

    def run(self) -> bool:
        """Whether everything was read."""
        queues = remoting.queues_of(self._to, self._job.destination)
        ends = self._settled_offsets(queues)
        # One pull of each queue is under way at a time; the broker gives 32 messages for one.
        at = {queue: low for queue, (low, high) in enumerate(ends) if low < high}
        asked = {self._pull(queue, offset): queue for queue, offset in at.items()}
        while asked:
            if time.monotonic() > self._deadline or self._job.stopping():
                return False
            opaque, answer = self._to.wait_any()
            queue = asked.pop(opaque, -1)
            if queue < 0:
                continue
            at[queue] = self._take(answer, at[queue])
            if at[queue] < ends[queue][1]:
                asked[self._pull(queue, at[queue])] = queue
        return True

    def _settled_offsets(self, queues: int) -> list[tuple[int, int]]:
        """(lowest, highest + 1) of each queue, once what is in the log is in the queues and nothing moves any more."""
        ends = remoting.offsets_of(self._to, self._job.destination, queues)
        since = time.monotonic()
        while True:
            if time.monotonic() > self._deadline:
                raise TimeoutError("offsets did not settle before the deadline")
            time.sleep(0.1)
            behind = int(remoting.runtime_info(self._to).get("dispatchBehindBytes", "0"))
            before, ends = ends, remoting.offsets_of(self._to, self._job.destination, queues)
            if behind > 0 or ends != before:
                since = time.monotonic()
            elif time.monotonic() - since >= _STABLE_S:
                return ends

    def _pull(self, queue: int, offset: int) -> int:
        group = str(self._job.endpoint.get("reader", _GROUP))
        fields = remoting.pull_fields(group, self._job.destination, queue, offset)
        return self._to.ask(remoting.PULL_MESSAGE, fields)

    def _take(self, answer: remoting.Frame, at: int) -> int:
        """Records what came; returns the next offset."""
        if answer.code == remoting.SUCCESS:
            messages = [m for m in remoting.stored(answer.body) if m.offset >= at]
            self._record([m.body for m in messages if not m.body.startswith(PROBE_BODY)])
            return max(int(answer.fields["nextBeginOffset"]), at)
        if answer.code in (remoting.PULL_NOT_FOUND, remoting.PULL_RETRY_IMMEDIATELY, remoting.PULL_OFFSET_MOVED):
            # Nothing there to be had now; the broker says where to go on, and never back.
            time.sleep(0.01)
            return max(int(answer.fields.get("nextBeginOffset", at)), at)
        raise remoting.RemotingError(remoting.PULL_MESSAGE, answer.code, answer.remark)

    def _record(self, bodies: list[bytes]) -> None:
        if not bodies:
            return
        job = self._job
        # Every offset is read once: a message that comes twice lies in the log twice, which is no redelivery.
        msg, key = self._verifier.read_many(bodies)
        now = job.tape.now()
        self._batch += 1
        job.tape.rows("receive", OK, len(bodies), start_ns=np.full(len(bodies), now), end_ns=np.full(len(bodies), now),
                      msg=msg, key=key, lane=job.lane, attempt=0, batch=self._batch)  # fmt: skip
