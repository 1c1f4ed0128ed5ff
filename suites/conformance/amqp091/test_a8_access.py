"""A8: who may do what, in which vhost, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brokerproof.conformance.amqp091.scene import AmqpScene, Channel
from brokerproof.conformance.case import Seen, case, chan, must
from brokerproof.versions import applies

#: (method, its arguments, the right that it needs on what it names). queue.bind needs two, so no single one is enough.
_NEEDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("exchange.declare", {"exchange": "new", "type": "direct", "durable": True}, "configure"),
    ("exchange.delete", {"exchange": "new"}, "configure"),
    ("queue.declare", {"queue": "fresh", "durable": True}, "configure"),
    ("queue.delete", {"queue": "fresh"}, "configure"),
    ("queue.bind", {"queue": "q", "exchange": "x", "routing_key": "k"}, "write, read"),
    ("queue.unbind", {"queue": "q", "exchange": "x", "routing_key": "k"}, "write, read"),
    ("basic.publish", {}, "write"),
    ("basic.consume", {"queue": "q"}, "read"),
    ("basic.get", {"queue": "q"}, "read"),
    ("queue.purge", {"queue": "q"}, "read"),
)  # fmt: skip
_RIGHTS = ("configure", "write", "read", "write, read")
_TOPICS = {"topic publish, key allowed": must("allowed"), "topic publish, key not allowed": chan(403)}
_OK = {"basic.get": ("basic.get-ok", "basic.get-empty")}


def _allowed(seen: Seen, method: str) -> Seen:
    """The answer in the words of the table; a refusal as it is."""
    if seen.behaviour in _OK.get(method, (f"{method}-ok",)):
        return Seen("as required", detail=seen.behaviour)
    return seen


def _published(channel: Channel, exchange: str, key: str) -> Seen:
    """What becomes of a publish: a refusal, or as required once the channel answers to something else."""
    channel.publish(exchange, key, b"x")
    return _allowed(channel.attempt("basic.qos", prefetch_count=0), "basic.qos")


def _is_enough(needed: str, rights: str) -> bool:
    return set(needed.split(", ")) <= set(rights.split(", "))


@case(
    "A8.01", "amqp091/permissions",
    requirement="Users with only some of configure, write and read may do what needs these, and are refused with 403 on their channel what needs others; so it is with routing keys of a topic exchange.",
    reference="open / virtual-host / security; constant access-refused", level="SHOULD", negative=True,
    accepts={
        **{f"{method} with {rights}": must("allowed") if _is_enough(needed, rights) else chan(403)
           for method, _, needed in _NEEDS for rights in _RIGHTS},
        **_TOPICS,
    },
)  # fmt: skip
def test_permissions(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.queue("q")
    for exchange, type_ in (("x", "direct"), ("t", "topic")):
        channel.exchange(type_, exchange)
    for rights in _RIGHTS:
        user = _user(scene, **{r: ".*" if r in rights.split(", ") else "" for r in ("configure", "write", "read")})
        connection = scene.connect(user=user, password=user)
        for method, arguments, _ in _NEEDS:
            # A thing of its own for each user, there before it is to be deleted.
            given = {k: f"{v}-{user}" if v in ("new", "fresh") else v for k, v in arguments.items()}
            if method.endswith(".delete"):
                kind = method.partition(".")[0]
                channel.queue(given["queue"]) if kind == "queue" else channel.exchange("direct", given["exchange"])
            channel_of_user = connection.channel()
            seen = (
                _published(channel_of_user, "x", "k")
                if method == "basic.publish"
                else channel_of_user.attempt(method, **given)
            )
            if seen.behaviour != "as required":
                seen = _allowed(seen, method)
            scene.saw(f"{method} with {rights}", seen)
            if seen.behaviour == "as required":
                channel_of_user.close()
        connection.drop()
    user = _user(scene, configure="", write=".*", read="")
    scene.admin.permit_topics(user, scene.vhost, "t", write="^a\\.", read=".*")
    for step, key in (("topic publish, key allowed", "a.b"), ("topic publish, key not allowed", "b.a")):
        connection = scene.connect(user=user, password=user)
        scene.saw(step, _published(connection.channel(), "t", key))
        connection.drop()


def _user(scene: AmqpScene, *, configure: str, write: str, read: str) -> str:
    """A user with these permissions, for the time of the case; its name, which is its password too."""
    user = f"{scene.name}-{scene.fresh('user')}"
    scene.admin.add_user(user, user)
    scene.finally_(lambda: scene.admin.delete_user(user))
    scene.admin.permit(user, scene.vhost, configure=configure, write=write, read=read)
    return user


@case(
    "A8.02", "amqp091/vhosts-isolated",
    requirement="The same names in two vhosts are different things: messages, bindings, deletion and policies of one never show in the other, and deleting one leaves the other.",
    reference="open / virtual-host / separation", level="MUST",
    accepts={"messages": must("stay where they were published"), "bindings": must("route in their own vhost"),
             "policies": must("hold in their own vhost"), "deletion": must("of one leaves the other"),
             "vhost deleted": must("the other works")},
)  # fmt: skip
def test_vhosts_isolated(scene: AmqpScene) -> None:
    other = f"{scene.vhost}-other"
    scene.admin.add_vhost(other)
    scene.finally_(lambda: scene.admin.delete_vhost(other))
    scene.admin.permit(scene.user, other)
    here, there = scene.connect().channel(), scene.connect(vhost=other).channel()
    for channel in (here, there):
        for name in ("q", "limited", "deleted"):
            channel.queue(name)
        channel.exchange("direct", "x")
    here.bind("q", "x", "k")
    here.publish("", "q", b"here")
    there.publish("", "q", b"there")
    found = [_bodies(c, "q") for c in (here, there)]
    scene.require("messages", found == [[b"here"], [b"there"]], f"got {found}")
    there.publish("x", "k", b"unbound")
    here.publish("x", "k", b"bound")
    found = [_bodies(c, "q") for c in (here, there)]
    scene.require("bindings", found == [[b"bound"], []], f"got {found}")
    scene.admin.set_policy(other, "short", "^limited$", {"max-length": 1}, "queues")
    for channel in (here, there):
        for body in (b"1", b"2", b"3"):
            channel.publish("", "limited", body)
    found = [[e.body for e in c.drain("limited")] for c in (here, there)]
    scene.require("policies", found == [[b"1", b"2", b"3"], [b"3"]], f"got {found}")
    there.call("queue.delete", queue="deleted")
    scene.require("deletion", scene.has("queue", "deleted"), "deleted in both")
    scene.admin.delete_vhost(other)
    here.publish("", "q", b"after")
    scene.require("vhost deleted", _bodies(here, "q") == [b"after"], "a message did not go through")


def _bodies(channel: Channel, queue: str) -> list[bytes]:
    return [e.body for e in channel.collect([queue])[queue]]


@case(
    "A8.03", "amqp091/permissions-dlx-ae",
    requirement="Declaring a queue with a dead-letter exchange needs read on the queue and write on the exchange; an exchange with an alternate needs read on it and write on the alternate; with either missing the channel is closed with 403.",
    reference="vendor access control documents", level="extension", negative=True,
    accepts={f"{what}, {rights}": must("allowed") if rights == "both" else chan(403)
             for what in ("dead-letter exchange", "alternate exchange") for rights in ("both", "without read", "without write")},
)  # fmt: skip
def test_permissions_dlx_ae(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    for name in ("dlx", "alternate"):
        channel.exchange("fanout", name)
    methods: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
        "dead-letter exchange": lambda name: (
            "queue.declare", {"queue": name, "durable": True, "arguments": {"x-dead-letter-exchange": "dlx"}},
        ),
        "alternate exchange": lambda name: (
            "exchange.declare",
            {"exchange": name, "type": "direct", "durable": True, "arguments": {"alternate-exchange": "alternate"}},
        ),
    }  # fmt: skip
    for rights, read, write in (
        ("both", "^mine", "^(dlx|alternate)$"), ("without read", "", "^(dlx|alternate)$"), ("without write", "^mine", ""),
    ):  # fmt: skip
        user = _user(scene, configure=".*", write=write, read=read)
        for what, build in methods.items():
            method, arguments = build(scene.fresh("mine"))
            connection = scene.connect(user=user, password=user)
            seen = connection.channel().attempt(method, **arguments)
            scene.saw(f"{what}, {rights}", _allowed(seen, method))
            connection.drop()


#: Source: RabbitMQ 3.13.0, release notes; rabbitmq.com/docs/consumers, limits. (3.12.14 has it too; nothing between is tested.)
_LIMITS_CONSUMERS = "rabbitmq>=3.13"


@case(
    "A8.04", "amqp091/limits",
    requirement="Recorded: how one connection too many for its vhost and for its user, one queue and one consumer of a channel too many are refused.",
    reference="vendor limits", level="unspecified", tags=["config"], version_settings={_LIMITS_CONSUMERS: {"consumer_max_per_channel": 3}},
    records=("vhost max-connections", "user max-connections", "vhost max-queues", "consumers per channel"),
)  # fmt: skip
def test_limits(scene: AmqpScene) -> None:
    connection = scene.connect()
    channel = connection.channel()
    scene.admin.limit_vhost(scene.vhost, {"max-connections": 1})
    scene.record("vhost max-connections", _one_more_connection(scene))
    scene.admin.limit_vhost(scene.vhost, {})
    if applies("rabbitmq>=3.8.10", scene.product, scene.version):
        scene.admin.limit_user(scene.user, {"max-connections": 1})
        scene.record("user max-connections", _one_more_connection(scene))
        scene.admin.limit_user(scene.user, {})
    else:
        scene.record("user max-connections", "this version has no limits of users")
    queue = channel.queue()
    scene.admin.limit_vhost(scene.vhost, {"max-queues": 1})
    scene.record("vhost max-queues", _short(scene.attempt("queue.declare", queue="more", durable=True)))
    scene.admin.limit_vhost(scene.vhost, {})
    if applies(_LIMITS_CONSUMERS, scene.product, scene.version):
        for _ in range(3):
            channel.consume(queue)
        scene.record("consumers per channel", _short(channel.attempt("basic.consume", queue=queue)))
    else:
        scene.record("consumers per channel", "this version has no limit of them")


def _one_more_connection(scene: AmqpScene) -> str:
    """What becomes of it, and after which method."""
    connection = scene.dial()
    connection.start()
    connection.start_ok()
    connection.tune_ok()
    connection.open()
    return f"after connection.open: {_short(connection.reaction())}"


def _short(seen: Seen) -> str:
    return seen.behaviour or f"{seen.scope} {seen.ending} {seen.code or ''}".strip()
