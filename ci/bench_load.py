"""What recording costs a sender: our ``send`` with its history against the same client's own loop without.

    python ci/bench_load.py [--broker kafka] [--pairs 5] [--seconds 5]

One single-node cluster per product, one topic or queue, 64-byte bodies, both sides through the same proxy. Pairs are
interleaved and their order alternates, every side is a fresh process, so that what else the machine does hits both.

    bare       the client library's plain loop, bodies made beforehand, a callback that counts
    recorded   the real thing: load process, tape, recorder process; counted in the finished history.arrow

A rate is acknowledged messages from the first acknowledgement to the last. Kafka's bare loop calls ``produce`` as its
documentation shows; ``--best`` also measures it with ``produce_batch``, which is what our sender is built on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof.brokers.base import broker, products
from brokerproof.history import OK, F, Meta, read_history
from brokerproof.loadprocess import LoadSpec
from brokerproof.message import Bodies
from brokerproof.plan import Destination
from brokerproof.runtime import sweep
from brokerproof.waiting import wait_until
from brokerproof.workloads.crew import Crew, ProcessScribe, wait_idle

BODY_BYTES, BODIES, CHUNK = 64, 10_000, 1000
#: Least ratio that is accepted (median of the pairs).
FLOOR = 0.85


def bodies() -> list[bytes]:
    """What our sender sends: checked bodies, made beforehand."""
    joined = Bodies(trial=1, sender=0, seed=1, size=BODY_BYTES).make(0, np.full(BODIES, -1, np.int32))
    return [joined[i : i + BODY_BYTES] for i in range(0, len(joined), BODY_BYTES)]


# -- the bare loops ----------------------------------------------------------------------------------------------------


def bare_kafka(endpoint: Mapping[str, Any], topic: str, seconds: float, in_flight: int) -> float:
    return _bare_kafka(endpoint, topic, seconds, in_flight, batched=False)


def bare_kafka_batched(endpoint: Mapping[str, Any], topic: str, seconds: float, in_flight: int) -> float:
    return _bare_kafka(endpoint, topic, seconds, in_flight, batched=True)


def _bare_kafka(endpoint: Mapping[str, Any], topic: str, seconds: float, in_flight: int, *, batched: bool) -> float:
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": ",".join(endpoint["bootstrap"]), "acks": "all", "enable.idempotence": True, "linger.ms": 5,
         "queue.buffering.max.messages": 2 * in_flight}
    )  # fmt: skip
    acknowledged = 0

    def counted(error: object, _: object) -> None:
        nonlocal acknowledged
        if error is None:
            acknowledged += 1

    made, sent, first = bodies(), 0, 0.0
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        first = first or now * (acknowledged > 0)
        if sent - acknowledged + CHUNK > in_flight:
            producer.poll(0.01)
            continue
        at = sent % BODIES
        if batched:
            producer.produce_batch(topic, [{"value": body} for body in made[at : at + CHUNK]], on_delivery=counted)
        else:
            for body in made[at : at + CHUNK]:
                producer.produce(topic, body, on_delivery=counted)
        sent += CHUNK
        producer.poll(0)
    while acknowledged < sent:
        producer.poll(0.05)
    return acknowledged / (time.monotonic() - first)


def bare_rabbitmq(endpoint: Mapping[str, Any], queue: str, seconds: float, in_flight: int) -> float:
    """SelectConnection with ``in_flight`` unconfirmed, the asynchronous adapter of pika's own examples."""
    import pika

    made = bodies()
    properties = pika.BasicProperties(delivery_mode=2)
    acknowledged = sent = 0
    first = end = 0.0
    host, port = endpoint["addresses"][0]

    def opened(connection: Any) -> None:
        connection.channel(on_open_callback=ready)

    def ready(channel: Any) -> None:
        nonlocal end
        end = time.monotonic() + seconds
        channel.confirm_delivery(lambda frame: confirmed(channel, frame), callback=lambda _: publish(channel))

    def publish(channel: Any) -> None:
        nonlocal sent
        while sent - acknowledged < in_flight:
            channel.basic_publish("", queue, made[sent % BODIES], properties, mandatory=True)
            sent += 1

    def confirmed(channel: Any, frame: Any) -> None:
        nonlocal acknowledged, first
        number = frame.method.delivery_tag
        acknowledged = number if frame.method.multiple else acknowledged + 1
        now = time.monotonic()
        first = first or now
        if now < end:
            publish(channel)
        elif acknowledged >= sent:
            channel.connection.ioloop.stop()

    credentials = pika.PlainCredentials(endpoint["user"], endpoint["password"])
    parameters = pika.ConnectionParameters(host, port, endpoint["vhost"], credentials)
    connection = pika.SelectConnection(parameters, on_open_callback=opened)
    connection.ioloop.start()
    return acknowledged / (time.monotonic() - first)


def bare_rocketmq(endpoint: Mapping[str, Any], topic: str, seconds: float, in_flight: int) -> float:
    """send_async with ``in_flight`` unanswered, as in the library's asynchronous example."""
    import threading

    from brokerproof.brokers.rocketmq.library import configuration, rocketmq, shut

    producer = rocketmq.Producer(configuration(endpoint, 3), (topic,))
    producer.startup()
    made, room, lock = bodies(), threading.Semaphore(in_flight), threading.Lock()
    acknowledged, sent, first = 0, 0, 0.0

    def answered(future: Any) -> None:
        nonlocal acknowledged, first
        if future.exception() is None:
            with lock:
                acknowledged += 1
                first = first or time.monotonic()
        room.release()

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        room.acquire()
        message = rocketmq.Message()
        message.topic = topic
        message.body = made[sent % BODIES]
        producer.send_async(message).add_done_callback(answered)
        sent += 1
    for _ in range(in_flight):
        room.acquire()
    rate = acknowledged / (time.monotonic() - first)
    shut(producer)
    return rate


BARE: Mapping[str, Callable[[Mapping[str, Any], str, float, int], float]] = {
    "kafka": bare_kafka, "kafka-batched": bare_kafka_batched, "rabbitmq": bare_rabbitmq, "rocketmq": bare_rocketmq,
}  # fmt: skip
#: What is measured: destination, the sender's settings, how many may be unanswered (environment: seen by hand).
LOADS: Mapping[str, tuple[Destination, Mapping[str, Any], int]] = {
    "kafka": (Destination(name="t", kind="log"), {"acks": "all", "enable.idempotence": True, "linger.ms": 5}, 100_000),
    "rabbitmq": (Destination(name="q", kind="queue", settings={"x-queue-type": "classic"}), {"confirm": True}, 2000),
    "rocketmq": (Destination(name="t", kind="queue", settings={"message.type": "NORMAL"}), {"send": "async"}, 200),
}


# -- pairs -------------------------------------------------------------------------------------------------------------


def run_bare(which: str, endpoint: Mapping[str, Any], name: str, seconds: float, in_flight: int) -> float:
    """In a process of its own, as everything that is measured."""
    asked = json.dumps({"which": which, "endpoint": endpoint, "name": name, "seconds": seconds, "in_flight": in_flight})
    done = subprocess.run(
        [sys.executable, __file__, "--bare", asked],
        check=True,
        capture_output=True,
        text=True,
        timeout=60 + 4 * seconds,
    )
    return float(done.stdout.split()[-1])


def run_recorded(product: str, endpoint: Mapping[str, Any], name: str, seconds: float, folder: Path, run: str) -> float:
    destination, settings, in_flight = LOADS[product]
    trial = folder / uuid.uuid4().hex[:8]
    trial.mkdir()
    crew = Crew(trial, lambda pid: sweep.register_process(run, pid))
    scribe = ProcessScribe(trial / "recorder.log", lambda pid: sweep.register_process(run, pid))
    try:
        lane = {"name": name, "kind": destination.kind}
        scribe.open(trial, Meta(trial="bench", broker=product, lanes=(lane,), processes=("producer",)))
        worker = crew.take(product, in_process=False)
        zero = time.monotonic_ns()
        worker.assign(
            LoadSpec(
                do="send", folder=str(trial), slot=0, slots=1, zero_ns=zero, seed=1, trial_number=1, endpoint=endpoint,
                destination=name, destination_settings=dict(destination.settings), kind=destination.kind, lane=0,
                partitions=1, load_s=seconds,
                sender={"size_bytes": BODY_BYTES, "in_flight_max": in_flight, "settings": dict(settings), "timeout_s": 20.0},
            )
        )  # fmt: skip
        wait_until(
            lambda: worker.facts.get("connected") or not worker.busy, 30, "the sender connected", interval_s=0.02
        )
        worker.go(time.monotonic_ns() - zero)
        wait_idle(worker, 60 + 4 * seconds, "the sender")
        if worker.failed:
            raise SystemExit(f"bench: the load process failed: {worker.failed}; its log: {trial}")
        scribe.finish(trial)
    finally:
        crew.close()
        scribe.close()
    history = read_history(trial / "history.arrow")
    ends = history["end_ns"][(history["f"] == F["send"]) & (history["outcome"] == OK)]
    return len(ends) / ((ends.max() - ends.min()) / 1e9)


def measure(product: str, pairs: int, seconds: float, best: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Ratios recorded/bare of ``pairs`` interleaved pairs."""
    destination, _, in_flight = LOADS[product]
    run = f"bench-{uuid.uuid4().hex[:8]}"
    chosen = broker(product)
    cluster = chosen.start(
        version=chosen.versions[0], topology="single", settings={}, name=run, run=run, progress=lambda what: say(what)
    )
    bare_kind = "kafka-batched" if best and product == "kafka" else product
    rates: dict[str, list[float]] = {"bare": [], "recorded": []}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BROKERPROOF_BENCH_DIR")) as folder:
            for pair in range(pairs):
                for side in ("bare", "recorded") if pair % 2 == 0 else ("recorded", "bare"):
                    # A destination of its own each time: a growing one would favour whoever comes first.
                    name = f"bench-{uuid.uuid4().hex[:8]}"
                    cluster.create(destination, name)
                    endpoint = dict(cluster.endpoint("producer", name))
                    if side == "bare":
                        rate = run_bare(bare_kind, endpoint, name, seconds, in_flight)
                    else:
                        rate = run_recorded(product, endpoint, name, seconds, Path(folder), run)
                    cluster.delete(destination, name)
                    rates[side].append(rate)
                say(f"{product} pair {pair + 1}: bare {rates['bare'][-1]:,.0f}/s, recorded {rates['recorded'][-1]:,.0f}/s, "
                    f"ratio {rates['recorded'][-1] / rates['bare'][-1]:.3f}")  # fmt: skip
    finally:
        cluster.close()
        sweep.unregister(run)
    ratios = [r / b for r, b in zip(rates["recorded"], rates["bare"], strict=True)]
    return {
        "product": product,
        "bare": bare_kind,
        "ratios": ratios,
        "median": statistics.median(ratios),
        "rates": rates,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per product; exit code 1 when a median is below the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", choices=sorted(LOADS), action="append", help="default: all that are there")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--best", action="store_true", help="Kafka's bare loop with produce_batch")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.bare:
        asked = json.loads(given.bare)
        print(BARE[asked["which"]](asked["endpoint"], asked["name"], asked["seconds"], asked["in_flight"]))
        return 0
    below = False
    for product in given.broker or [p for p in LOADS if p in products()]:
        found = measure(product, given.pairs, given.seconds, given.best, lambda what: print(what, flush=True))
        below |= found["median"] < FLOOR
        ratios = ", ".join(f"{r:.3f}" for r in sorted(found["ratios"]))
        print(
            f"{product}: recorded / bare = {found['median']:.3f} (median of {given.pairs} pairs; {ratios}); "
            f"bare {statistics.median(found['rates']['bare']):,.0f}/s, "
            f"recorded {statistics.median(found['rates']['recorded']):,.0f}/s; floor {FLOOR}"
        )
    return int(below)


if __name__ == "__main__":
    sys.exit(main())
