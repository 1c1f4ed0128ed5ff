"""Administration of a RabbitMQ cluster, by the functions that its command-line tools call, asked in Erlang on the first node.

``rabbitmqctl`` itself takes seconds on a busy machine, and a case makes a vhost and a user of its own. Names go in as octets and come
back in base64, whatever is in them.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from brokerproof.brokers.rabbitmq import erlang
from brokerproof.conformance.amqp091.administration import Entities
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime.node import ContainerNode

_HEALTHY_S = 90.0
_ASKED = 3
#: The acting user, as it stands in the node's log.
_BY = '<<"brokerproof">>'
_B64 = "fun(B) -> base64:encode_to_string(B) end"
_ENTITIES = """
begin
  E = {b64},
  Q = [["q ", E(element(4, amqqueue:get_name(X))), "|"] || X <- rabbit_amqqueue:list({vhost})],
  X = [["x ", E(element(4, element(2, X))), "|"] || X <- rabbit_exchange:list({vhost})],
  B = [["b ", E(element(4, proplists:get_value(source_name_, I))), " ", E(atom_to_binary(element(3,
         proplists:get_value(destination_name_, I)), utf8)), " ", E(element(4, proplists:get_value(destination_name_, I))), " ",
         E(proplists:get_value(key_, I)), "|"]
       || {{binding, S, K, D, _}} <- rabbit_binding:list({vhost}),
          I <- [[{{source_name_, S}}, {{destination_name_, D}}, {{key_, K}}]]],
  [Q, X, B]
end
"""
_QUEUE = """
case rabbit_amqqueue:lookup({{resource, {vhost}, queue, {name}}}) of
  {{ok, Q}} -> io_lib:format("~p|~p|~p|~s", [amqqueue:is_durable(Q), amqqueue:get_exclusive_owner(Q) =/= none,
    amqqueue:is_auto_delete(Q), base64:encode_to_string(iolist_to_binary(io_lib:format("~0p", [amqqueue:get_arguments(Q)])))]);
  _ -> "none"
end
"""
#: A setting as the application brings it, before any configuration. Read by the loader: that of 3.8 is inside an archive.
_DEFAULT = """
begin
  {{ok, Text, _}} = erl_prim_loader:get_file(code:where_is_file("rabbit.app")),
  {{ok, Tokens, _}} = erl_scan:string(unicode:characters_to_list(Text)),
  {{ok, {{application, rabbit, Spec}}}} = erl_parse:parse_term(Tokens),
  io_lib:format("~0p", [proplists:get_value({name}, proplists:get_value(env, Spec))])
end
"""


class RabbitAdministration:
    """``administration.Administration``. cluster: a ``RabbitCluster``; its own type is not needed here."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def prepare(self, vhost: str, user: str, password: str) -> None:
        """A vhost, and a user who may everything there, in one question: each costs a process in the container."""
        v, u, every = _bin(vhost), _bin(user), _bin(".*")
        self._do(
            f"begin catch rabbit_vhost:add({v}, {_BY}), "
            f"catch rabbit_auth_backend_internal:add_user({u}, {_bin(password)}, {_BY}), "
            f"rabbit_auth_backend_internal:set_permissions({u}, {v}, {every}, {every}, {every}, {_BY}) end"
        )

    def remove(self, vhost: str, user: str) -> None:
        """Both; no error when they are gone."""
        self._do(
            f"begin catch rabbit_vhost:delete({_bin(vhost)}, {_BY}), "
            f"catch rabbit_auth_backend_internal:delete_user({_bin(user)}, {_BY}), ok end"
        )

    def add_vhost(self, vhost: str) -> None:
        self._do(f"rabbit_vhost:add({_bin(vhost)}, {_BY})")

    def delete_vhost(self, vhost: str) -> None:
        self._do(f"catch rabbit_vhost:delete({_bin(vhost)}, {_BY})", any_answer=True)

    def add_user(self, user: str, password: str) -> None:
        # One that is there is ours, from an answer that got lost.
        self._do(f"begin catch rabbit_auth_backend_internal:add_user({_bin(user)}, {_bin(password)}, {_BY}), ok end")

    def delete_user(self, user: str) -> None:
        self._do(f"catch rabbit_auth_backend_internal:delete_user({_bin(user)}, {_BY})", any_answer=True)

    def permit(self, user: str, vhost: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        named = ", ".join(_bin(v) for v in (user, vhost, configure, write, read))
        self._do(f"rabbit_auth_backend_internal:set_permissions({named}, {_BY})")

    def forbid(self, user: str, vhost: str) -> None:
        self._do(f"rabbit_auth_backend_internal:clear_permissions({_bin(user)}, {_bin(vhost)}, {_BY})")

    def permit_topics(self, user: str, vhost: str, exchange: str, *, write: str = ".*", read: str = ".*") -> None:
        named = ", ".join(_bin(v) for v in (user, vhost, exchange, write, read))
        self._do(f"rabbit_auth_backend_internal:set_topic_permissions({named}, {_BY})")

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Mapping[str, Any], apply_to: str = "all"
    ) -> None:
        named = ", ".join(_bin(v) for v in (vhost, name, pattern, json.dumps(definition)))
        self._do(f"rabbit_policy:parse_set({named}, 0, {_bin(apply_to)}, {_BY})")

    def clear_policy(self, vhost: str, name: str) -> None:
        self._do(f"rabbit_policy:delete({_bin(vhost)}, {_bin(name)}, {_BY})", any_answer=True)

    def limit_vhost(self, vhost: str, limits: Mapping[str, int]) -> None:
        if limits:
            self._do(f"rabbit_vhost_limit:parse_set({_bin(vhost)}, {_bin(json.dumps(limits))}, {_BY})")
        else:
            self._do(f"rabbit_vhost_limit:clear({_bin(vhost)}, {_BY})", any_answer=True)

    def limit_user(self, user: str, limits: Mapping[str, int]) -> None:
        if limits:
            self._do(f"rabbit_auth_backend_internal:set_user_limits({_bin(user)}, {_bin(json.dumps(limits))}, {_BY})")
        else:
            self._do(f'rabbit_auth_backend_internal:clear_user_limits({_bin(user)}, <<"all">>, {_BY})', any_answer=True)

    def entities(self, vhost: str) -> Entities:
        said = self._ask(_ENTITIES.format(b64=_B64, vhost=_bin(vhost)))
        rows = [
            [_text(cell) if i else cell for i, cell in enumerate(line.split(" "))] for line in said.split("|") if line
        ]
        return Entities(
            queues=frozenset(row[1] for row in rows if row[0] == "q"),
            exchanges=frozenset(row[1] for row in rows if row[0] == "x" and row[1] and not row[1].startswith("amq.")),
            bindings=frozenset(
                (row[1], f"{row[2]} {row[3]}", row[4]) for row in rows if row[0] == "b" and row[1]
            ),
        )  # fmt: skip

    def queue(self, vhost: str, name: str) -> Mapping[str, Any] | None:
        said = self._ask(_QUEUE.format(vhost=_bin(vhost), name=_bin(name)))
        if said == "none":
            return None
        durable, exclusive, auto_delete, arguments = said.split("|")
        return {
            "durable": durable == "true", "exclusive": exclusive == "true", "auto_delete": auto_delete == "true",
            "arguments": _text(arguments),
        }  # fmt: skip

    def setting(self, name: str) -> Any:
        said = self._ask(f'io_lib:format("~0p", [application:get_env(rabbit, {name})])')
        if said == "undefined":
            return None
        value = said.removeprefix("{ok,").removesuffix("}")
        return int(value) if value.lstrip("-").isdigit() else value

    def default(self, name: str) -> Any:
        said = self._ask(_DEFAULT.format(name=name))
        return None if said == "undefined" else int(said) if said.lstrip("-").isdigit() else said

    def memory(self) -> int:
        """As the virtual machine counts it; what the operating system has lent it is more, and comes back late."""
        return int(self._ask('io_lib:format("~b", [erlang:memory(total)])'))

    def raise_alarm(self) -> None:
        self._cluster.raise_memory_alarm(self.nodes()[0])

    def clear_alarm(self) -> None:
        self._cluster.clear_memory_alarm(self.nodes()[0])

    def restart(self, how: Literal["stop", "kill"], node: int = 0) -> None:
        self.down(how, node)
        self.up(node)

    def down(self, how: Literal["stop", "kill"], node: int = 0) -> None:
        victim = self._cluster.nodes[self.nodes()[node]]
        (victim.kill if how == "kill" else victim.stop)()

    def up(self, node: int = 0) -> None:
        self._cluster.nodes[self.nodes()[node]].start()
        self._cluster.wait_healthy(_HEALTHY_S)

    def nodes(self) -> Sequence[str]:
        return tuple(self._cluster.nodes)

    def _do(self, expression: str, *, any_answer: bool = False) -> None:
        said = self._ask(f'io_lib:format("~0p", [{expression}])')
        if said != "ok" and not any_answer:
            raise EnvironmentProblem(f"asking a rabbitmq node for {expression}: {said}")

    def _ask(self, expression: str) -> str:
        """Asked again when no answer came, which a busy machine brings about: everything here may be done twice."""
        node: ContainerNode = self._cluster.nodes[self.nodes()[0]]
        asked = " ".join(expression.split())
        for _ in range(_ASKED - 1):
            with contextlib.suppress(EnvironmentProblem):
                return erlang.ask(node, asked)
        return erlang.ask(node, asked)


def _bin(text: str) -> str:
    return "<<" + ",".join(str(octet) for octet in text.encode("utf-8", "surrogateescape")) + ">>"


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode("utf-8", "surrogateescape")
