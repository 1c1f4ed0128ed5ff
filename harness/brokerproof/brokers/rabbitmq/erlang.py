"""Questions to a node that AMQP cannot answer, asked in Erlang inside its own container.

``erl_call`` (part of Erlang, in Debian's package) takes about 0.08 s, where ``rabbitmqctl eval`` takes 0.4 s on an idle
machine and 2 s on a busy one. Where there is none, a hidden ``erl`` asks instead (0.2 s). Every node is asked for
itself: one that is cut off from the others still answers for what it believes.
Source: https://www.erlang.org/doc/apps/erl_interface/erl_call_cmd.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime.node import ContainerNode

_ASK_S = 6
# The expression yields a flat string without quotes or backslashes, between marks that nothing else prints. Who asks has a
# name of its own, $$ being the shell's process id: erl_call has one name by default, and a node that is asked by two of that name
# at once turns one of them down ("failed to connect": seven of eight, measured).
_SHELL = """
if command -v erl_call >/dev/null; then
  printf '%s.\\n' "$1" | timeout {s} erl_call -h "ask$$" -sname "rabbit@$2" -e
else
  timeout {s} erl -noinput -hidden -sname "ask$$" -setcookie "$(cat /var/lib/rabbitmq/.erlang.cookie)" -eval "
    {{ok, T, _}} = erl_scan:string(\\"$(printf '%s' "$1" | sed 's/[\\\\"]/\\\\&/g').\\"), {{ok, E}} = erl_parse:parse_exprs(T),
    io:format(\\"~s\\", [element(2, rpc:call('rabbit@$2', erl_eval, exprs, [E, []]))]), halt()."
fi
"""
_ANSWER = re.compile(r"<<<(.*?)>>>", re.DOTALL)


def ask(node: ContainerNode, expression: str) -> str:
    """The text that ``expression`` yields on the node. Raises EnvironmentProblem when the node does not answer."""
    marked = f'lists:flatten(["<<<", ({expression}), ">>>"])'
    code, output = node.execute(["sh", "-c", _SHELL.format(s=_ASK_S), "sh", marked, node.name], user="rabbitmq")
    found = _ANSWER.search(output)
    if found is None:
        raise EnvironmentProblem(
            f"asking {node.container_name!r} for its state: exit code {code}, {output.strip()[-300:]!r}; its log says more"
        )
    return found.group(1)


# -- what a node believes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Belief:
    """What one node says. up: rabbit runs.  connected: nodes it has a connection to, itself included (a cut is noticed
    after ``net_ticktime``).  partitions: nodes it knows to have been cut off from it."""

    up: bool
    connected: frozenset[str]
    partitions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Replica:
    """One node's replica of a queue. state: leader, follower, candidate …, ``none`` where there is none; the node of a
    classic queue is its leader, at term 0. nodes: those that should hold a replica; of a classic queue, those that have
    one now, with its mirrors (3.x)."""

    state: str
    term: int = 0
    commit: int = 0
    applied: int = 0
    nodes: frozenset[str] = frozenset()


_NODES = 'lists:join(",", [atom_to_list(N) || N <- {list}])'
# Not rabbit_nodes:all_running(): that asks the others, and waits seconds for one that is cut off.
_BELIEF = (
    'case rabbit:is_running() of true -> ["up;", '
    + _NODES.format(list="[node() | nodes()]")
    + ', ";", '
    + _NODES.format(list="lists:usort(rabbit_node_monitor:partitions())")
    + ']; _ -> "down;;" end'
)

# sys:get_status is what quorum_status of RabbitMQ 3.x reads; Ra of 4.0 still answers in that form.
_REPLICA = """
R = fun(Ra, Q) -> try
  S = [T || T <- lists:nth(5, element(4, sys:get_status(Ra, 2000))), is_tuple(T)],
  M = proplists:get_value(ra_server_state, S),
  io_lib:format("~s|~s|~b|~b|~b|~s", [element(4, amqqueue:get_name(Q)), proplists:get_value(raft_state, S),
    maps:get(current_term, M), maps:get(commit_index, M), maps:get(last_applied, M),
    lists:join(",", [atom_to_list(N) || N <- maps:get(nodes, amqqueue:get_type_state(Q))])])
catch _:_ -> [element(4, amqqueue:get_name(Q)), "|down|0|0|0|"] end end
"""
# In 4.x there are no mirrors, and no such function.
_MIRRORS = """
Mirrors = fun(P, Q) -> lists:join(",", [atom_to_list(node(X)) || X <- [P | case catch amqqueue:get_slave_pids(Q) of
  L when is_list(L) -> L; _ -> [] end]]) end
"""
_ONE = """
case catch rabbit_amqqueue:lookup({{resource, <<"/">>, queue, <<"{name}">>}}) of
  {{ok, Q{i}}} -> case amqqueue:get_pid(Q{i}) of
    {{Ra{i}, _}} -> R(Ra{i}, Q{i});
    P{i} when node(P{i}) =:= node() -> ["{name}|leader|0|0|0|", Mirrors(P{i}, Q{i})];
    _ -> "{name}|none|0|0|0|" end;
  _ -> "{name}|none|0|0|0|" end
"""
_QUORUM = """[R(element(1, amqqueue:get_pid(Q)), Q) || Q <- rabbit_amqqueue:list(), is_tuple(amqqueue:get_pid(Q)),
  lists:member(node(), maps:get(nodes, amqqueue:get_type_state(Q)))]"""
# The same call that `rabbitmq-queues rebalance` ends in. Ra does it only for a replica that has caught up.
_HOME = """
lists:join(" ", [begin
    ra:transfer_leadership({{Ra, node()}}, {{Ra, Home}}), element(4, amqqueue:get_name(Q))
  end || Q <- rabbit_amqqueue:list(), is_tuple(amqqueue:get_pid(Q)), amqqueue:get_type(Q) =:= rabbit_quorum_queue,
    Ra <- [element(1, amqqueue:get_pid(Q))],
    Home <- [case rabbit_misc:table_lookup(amqqueue:get_arguments(Q), <<"{argument}">>) of
      {{_, N}} -> list_to_atom("rabbit@" ++ binary_to_list(N)); _ -> 'rabbit@{default}' end],
    Home =/= node(), [leader] =:= [element(2, T) || T <- ets:lookup(ra_state, Ra)],
    lists:member(Home, maps:get(nodes, amqqueue:get_type_state(Q)))])
"""


def belief(node: ContainerNode) -> Belief:
    up, connected, partitions = ask(node, _BELIEF).split(";")
    return Belief(up == "up", _short(connected), _short(partitions))


def replicas(node: ContainerNode, names: Sequence[str]) -> dict[str, Replica]:
    """What the node holds of these queues."""
    if not names:
        return {}
    asked = ", ".join(_ONE.format(name=name, i=i) for i, name in enumerate(names))
    return _replicas(ask(node, f'begin {_REPLICA}, {_MIRRORS}, lists:join(" ", [{asked}]) end'))


def quorum_replicas(node: ContainerNode) -> dict[str, Replica]:
    """What the node holds of all quorum queues that should have a replica on it."""
    return _replicas(ask(node, f'begin {_REPLICA}, lists:join(" ", {_QUORUM}) end'))


def send_leaders_home(node: ContainerNode, argument: str, default: str) -> list[str]:
    """Asks the quorum queues that this node leads, and that belong elsewhere, to be led there; their names.

    argument: of the queue, names the node it belongs to; without it that is ``default``.
    """
    return ask(node, _HOME.format(argument=argument, default=default)).split()


def set_policy(node: ContainerNode, queue: str, definition: str) -> None:
    """A policy of the queue's name on that queue alone. definition: JSON."""
    binary = ",".join(str(byte) for byte in definition.encode())
    answer = ask(node, (
        f'io_lib:format("~0p", [rabbit_policy:parse_set(<<"/">>, <<"{queue}">>, <<"^{re.escape(queue)}$">>, '
        f'<<{binary}>>, 0, <<"queues">>, <<"guest">>)])'
    ))  # fmt: skip
    if answer != "ok":
        raise EnvironmentProblem(f"setting policy {definition} on queue {queue!r}: {answer}")


def set_watermark(node: ContainerNode, watermark: str) -> None:
    """How much memory the node may use before it raises its alarm: an Erlang term, or "" for what it is configured with.
    Source: https://www.rabbitmq.com/docs/memory#configuring-threshold"""
    wanted = watermark or "element(2, application:get_env(rabbit, vm_memory_high_watermark))"
    answer = ask(node, f'io_lib:format("~0p", [vm_memory_monitor:set_vm_memory_high_watermark({wanted})])')
    if answer != "ok":
        raise EnvironmentProblem(f"setting the memory high watermark of {node.container_name!r} to {wanted}: {answer}")


_ALARM = """
begin
  States = [case catch rabbit_networking:connection_info(C, [state]) of [{state, S}] -> S; _ -> gone end
            || C <- rabbit_networking:connections()],
  io_lib:format("~p|~b|~b|~b|~b", [lists:member({{resource_limit, memory, node()}, []}, rabbit_alarm:get_alarms()),
    vm_memory_monitor:get_process_memory(), vm_memory_monitor:get_memory_limit(),
    length([S || S <- States, S =:= blocked orelse S =:= blocking]), length(States)])
end
"""


@dataclass(frozen=True, slots=True)
class Alarm:
    """The memory alarm of one node. blocked: connections of the whole cluster that may not publish, of so many."""

    on: bool
    used_mb: float
    limit_mb: float
    blocked: int
    connections: int


def memory_alarm(node: ContainerNode) -> Alarm:
    on, used, limit, blocked, connections = ask(node, _ALARM).split("|")
    return Alarm(on == "true", int(used) / (1 << 20), int(limit) / (1 << 20), int(blocked), int(connections))


def clocks(node: ContainerNode) -> tuple[float, float]:
    """The operating system's time of day as the node sees it, and Erlang's own, which follows a jump of the other by a
    hundredth of the time that goes by. In seconds since 1970.
    Source: https://www.erlang.org/doc/apps/erts/time_correction.html#no-time-warp-mode"""
    os_us, own_us = ask(
        node, 'io_lib:format("~b ~b", [os:system_time(microsecond), erlang:system_time(microsecond)])'
    ).split()
    return int(os_us) / 1e6, int(own_us) / 1e6


def clear_policy(node: ContainerNode, queue: str) -> None:
    ask(node, f'begin rabbit_policy:delete(<<"/">>, <<"{queue}">>, <<"guest">>), "ok" end')


def _replicas(text: str) -> dict[str, Replica]:
    found = {}
    for part in text.split():
        if part.count("|") != 5:
            raise EnvironmentProblem(f"replicas of a node: expected six fields, got {text[:200]!r}; it may be stopping")
        name, state, term, commit, applied, nodes = part.split("|")
        found[name] = Replica(state, int(term), int(commit), int(applied), _short(nodes))
    return found


def _short(names: str) -> frozenset[str]:
    """``rabbit@r1,rabbit@r2`` as r1, r2."""
    return frozenset(name.removeprefix("rabbit@") for name in names.split(",") if name)
