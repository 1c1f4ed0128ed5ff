"""``brokerproof target init|check``, ``--dry-run`` and ``clean --target``: what a person asks of a target before and after."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from brokerproof.adopting import Adoption, link_groups
from brokerproof.brokers.base import Noted, adopting, broker
from brokerproof.claims import declared
from brokerproof.credentials import reveal
from brokerproof.errors import EnvironmentProblem, HarnessError, UsageError, unknown
from brokerproof.experiment import Cell, Experiment
from brokerproof.faults.base import faults, plane
from brokerproof.plan import Plan
from brokerproof.run import lacking
from brokerproof.runtime import front, localproxy
from brokerproof.suites import suites
from brokerproof.target import MESSAGES_PER_S, PORTS, PREFIX, Target, joined, load

if TYPE_CHECKING:
    from brokerproof.conformance.running import Choice

_COMMON_TAIL = """\
# What stands in front of the broker; default: a container where an engine answers, else a process.
# [toxiproxy]
# as = "local"                          # a process: $BROKERPROOF_TOXIPROXY, toxiproxy-server on the path, or server = "file"

[limits]
# What all senders together send in a second at most. Speeds are not compared on a target.
messages_per_s = {rate:g}

[names]
# What everything that is made begins with. All of it is removed at the end; what is there and not ours is never touched.
prefix = "{prefix}"
"""

_NODES = """\
# One table for each {node}, under a name of your choice. Addresses as this machine reaches them.
[nodes.n1]
address = "broker-1.example.com:{port}"
# What breaks the node itself is refused, unless the run says --allow-destructive and the file says how:
# container = "my-broker-1"                                    # its name in the container engine here; or commands:
# kill = "ssh broker-1 sudo systemctl kill -s KILL {service}"  # end it at once, as SIGKILL does
# start = "ssh broker-1 sudo systemctl start {service}"        # start it again

"""

_RABBITMQ = """\
[access]
user = "brokerproof"
# A credential never stands here, and is no argument: say where it is found.
password_env = "BROKERPROOF_PASSWORD"   # a variable of the environment; or
# password_file = "secrets/rabbit"      # the first line of a file, relative to this one
# A vhost of its own. An administrator makes it, and lets the user touch names under the prefix only:
#   rabbitmqctl add_vhost brokerproof
#   rabbitmqctl set_permissions -p brokerproof brokerproof '^{prefix}.*' '^({prefix}.*|amq\\.default)$' '^{prefix}.*'
vhost = "brokerproof"
# mechanism = "EXTERNAL"                # by the client's certificate, with [tls] cert_file

# [tls]                                 # AMQPS; then the port is 5671
# ca_file = "ca.pem"                    # who signed the broker's certificate; default: this machine's own list
# cert_file = "client.pem"
# key_file = "client.key"
# key_password_env = "KEY_PASSWORD"
# server_name = "rabbit.example.com"    # what the certificate says, where that is not the host of the address

"""

_KAFKA = """\
[access]                                # leave it out where the listener asks nobody
user = "brokerproof"
# A credential never stands here, and is no argument: say where it is found.
password_env = "BROKERPROOF_PASSWORD"   # a variable of the environment; or
# password_file = "secrets/kafka"       # the first line of a file, relative to this one
mechanism = "SCRAM-SHA-512"             # or PLAIN, SCRAM-SHA-256

# [tls]
# ca_file = "ca.pem"
# cert_file = "client.pem"
# key_file = "client.key"
# key_password_env = "KEY_PASSWORD"

# Clients of Kafka go where the brokers tell them (advertised.listeners). So links can be broken only for those groups of
# clients whose listener tells them our proxies; `brokerproof target check` says what is told, and what to set. Per node:
# [nodes.n1.proxies]
# producer = { port = 19191, upstream = "broker-1.example.com:19091" }
# consumer = { port = 19192, upstream = "broker-1.example.com:19092" }

"""

_ROCKETMQ = """\
[rocketmq]
proxy = "proxy-1.example.com:8081"        # the gRPC proxy, through which clients send and receive
name_servers = ["names-1.example.com:9876"]
# Clients go where the gRPC proxy tells them. Links can be broken only where it sends them back to the port that they came to:
# "useEndpointPortFromRequest": true in its rmq-proxy.json, proxyMode cluster; `brokerproof target check` says what it tells.
# useEndpointPortFromRequest = true

[access]                                  # leave it out where nobody is asked
user = "brokerproof"                      # the access key
# A credential never stands here, and is no argument: say where the secret key is found.
password_env = "BROKERPROOF_PASSWORD"     # a variable of the environment; or
# password_file = "secrets/rocketmq"      # the first line of a file, relative to this one
# An administrator lets it touch names under the prefix only:
#   mqadmin createUser -n NAMESERVER:9876 -c CLUSTER -u brokerproof -p … -t Normal
#   mqadmin createAcl -n NAMESERVER:9876 -c CLUSTER -s User:brokerproof \\
#       -r 'Topic:{prefix}*,Topic:%DLQ%{prefix}*,Group:{prefix}*' -a All -d Allow

"""


def template(product: str) -> str:
    """The text of a target file, with every key explained. Raises UsageError."""
    if product not in PORTS:
        raise unknown("product of a target", product, PORTS)
    service = {"rabbitmq": "rabbitmq-server", "kafka": "kafka", "rocketmq": "rocketmq-broker"}[product]
    own = {"rabbitmq": _RABBITMQ, "kafka": _KAFKA, "rocketmq": _ROCKETMQ}[product].replace("{prefix}", PREFIX)
    newest = broker(product).versions[0]
    version = f'# version = "{newest}"                   # default: as the broker says'
    if product == "kafka":
        version = f'version = "{newest}"                     # Kafka tells clients none: kafka-topics.sh --version on a broker'
    head = "# A broker of your own, for `brokerproof run --target THIS`. First: `brokerproof target check THIS`.\n"
    return (
        f'{head}product = "{product}"\n{version}\n\n'
        + _NODES.format(port=PORTS[product], service=service, node="master" if product == "rocketmq" else "broker")
        + own
        + _COMMON_TAIL.format(rate=MESSAGES_PER_S, prefix=PREFIX)
    )


def init(product: str, path: Path) -> None:
    """Writes it. Raises UsageError where a file is there."""
    text = template(product)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError as exc:
        raise UsageError(f"{str(path)!r} is there; name another file, or remove it") from exc
    except OSError as exc:
        raise UsageError(f"writing {str(path)!r}: {exc}") from exc


def look(target: Target) -> tuple[Noted, ...]:
    """Everything that ``target check`` says."""
    try:
        reveal(target.password)
    except UsageError as exc:
        what, _, step = str(exc).partition("; ")
        return (Noted("missing", "access", what, step),)
    inspected = adopting(target.product).inspect(target)
    target, proxy = _settled(target)
    notes = [Noted("ok", "access", target.access_in_words()), *inspected.notes, proxy]
    if target.password and isinstance(target.password, dict) and "file" in target.password:
        notes += _file_is_private(Path(target.password["file"]))
    known = broker(target.product).versions
    if inspected.version and inspected.version not in known:
        notes.append(
            Noted("warning", "version", f"{inspected.version}: measured are {', '.join(known)}; no verdict is expected of it",
                  "a first run shows what it does: `brokerproof gate RUN --expected FILE --write` keeps that")
        )  # fmt: skip
    notes.append(
        Noted(
            "ok",
            "load",
            f"at most {target.messages_per_s:g} messages/s in all, under names that begin with {target.prefix!r}",
        )
    )
    return (*notes, *_possible(target))


def _settled(target: Target) -> tuple[Target, Noted]:
    """The target with the proxy that it is going to have, and a word about that."""
    try:
        way = front.way(target)
    except EnvironmentProblem as exc:
        seen, _, step = str(exc).partition("; ")
        return target, Noted("warning", "proxy", f"none; protocol cases need none: {seen}", step)
    if way == "container":
        return replace(target, toxiproxy=way), Noted("ok", "proxy", "a Toxiproxy in a container")
    program = localproxy.server(target.toxiproxy_server)
    return replace(target, toxiproxy=way), Noted("ok", "proxy", f"{program.path} {program.version}, a process here")


def _file_is_private(file: Path) -> list[Noted]:
    try:
        mode = file.stat().st_mode & 0o077
    except OSError:
        return []
    return [Noted("warning", "password file", f"{file} can be read by others", f"chmod 600 {file}")] if mode else []


def _possible(target: Target) -> list[Noted]:
    """Which faults there are, which with ``--allow-destructive``, and which never."""
    sets: dict[str, list[str]] = {"": [], "destructive": []}
    never: dict[str, list[str]] = {}
    for name in faults():
        gentle, rough = (Adoption(target, "", allowed).refused(name, ("producer",)) for allowed in (False, True))
        if not gentle:
            sets[""].append(name)
        elif not rough:
            sets["destructive"].append(name)
        else:
            never.setdefault(re.sub(rf"^{name} (of [^:]+: )?", "", rough), []).append(name)
    found = [Noted("ok", "faults", f"possible: {', '.join(sets[''])}")]
    if sets["destructive"]:
        found.append(Noted("ok", "faults", f"with --allow-destructive: {', '.join(sets['destructive'])}"))
    for reason, names in never.items():
        status = "warning" if plane(names[0]) == "link" else "ok"
        found.append(Noted(status, "faults", f"not possible: {', '.join(names)}", reason))
    return found


def dry_run(adoption: Adoption, *, select: Sequence[str], profile: str, variant: Sequence[str], seed: int) -> list[str]:
    """Lines that say what a run would touch. Nothing is connected to."""
    target = adoption.target
    version = _version(adoption)
    groups = ", ".join(link_groups(target))
    proxied = f"proxied: {groups}, by {_PROXY[target.toxiproxy]}" if groups else "nothing is proxied"
    lines = _touched(
        target, f"{target.messages_per_s:g} messages/s; {proxied}", f", and {target.prefix}probe-…",
    )  # fmt: skip
    left_out: Counter[str] = Counter()
    for one in declared(suites() / "claims"):
        if (select and not any(s in (one.claim.id, one.claim.section) for s in select)) or profile not in one.profiles:
            continue
        if one.on_request and not select:
            continue
        for kind in one.brokers.get(target.product, ()):
            if (variant and kind not in variant) or (profile == "quick" and kind in one.longer):
                continue
            cell = Cell(
                claim=one.claim, broker=target.product, version=version, variant=kind, profile=profile, seed=seed
            )
            made = adoption.within(one.decide(cell))
            reason = adoption.lacks(one.needs) or lacking(made, target.product, adoption, version=version)
            if reason:
                left_out[reason] += 1
                continue
            assert isinstance(made, Experiment)
            lines.append(_cell_in_words(adoption, cell, made))
    lines += [f"left out {n} cell{'' if n == 1 else 's'}: {reason}" for reason, n in left_out.most_common()]
    return lines


def cases_in_words(adoption: Adoption, choice: Choice, *, each: bool) -> list[str]:
    """Lines that say which of the chosen protocol cases would be run on the target, and which not and why. Nothing is connected to.
    each: a line for every case that would."""
    from brokerproof.conformance.adopted import lacking
    from brokerproof.conformance.case import cases_of
    from brokerproof.conformance.protocols import protocol_of
    from brokerproof.conformance.running import jobs_of

    target = adoption.target
    lines = _touched(target, f"{target.messages_per_s:g} requests/s; nothing is proxied", "")
    left_out: dict[str, list[str]] = {}
    runs: list[str] = []
    protocol = protocol_of(target.product)
    jobs = jobs_of(c for c in cases_of(suites() / "conformance") if c.protocol == protocol)
    for job in filter(choice.takes, jobs):
        absent = job.case.absent(target.product, _version(adoption), job.variant)
        if absent := absent or lacking(adoption, job.case, job.variant, job.condition):
            left_out.setdefault(absent, []).append(job.slug)
        else:
            runs.append(f"case     {job.slug} {job.case.slug}")
    at_most = "at most, each named by --list; some see only on their way that they need a hand on the broker: SKIP"
    lines += runs if each else [f"cases    {len(runs)} {at_most}"]
    return lines + [f"left out {', '.join(slugs)}: {reason}" for reason, slugs in left_out.items()]


def _version(adoption: Adoption) -> str:
    return adoption.version or adoption.target.version or broker(adoption.product).versions[0]


#: ``Target.toxiproxy`` -> in words.
_PROXY: Mapping[str, str] = {
    "": "a Toxiproxy in a container, or as a process here where no engine answers",
    "container": "a Toxiproxy in a container",
    "local": "a Toxiproxy as a process here",
}


def _touched(target: Target, load: str, more_names: str) -> list[str]:
    return [
        f"target   {target.product} {target.version or '(version as it says)'}: "
        + ", ".join(f"{n.name} {joined(n.address)}" for n in target.nodes.values()),
        f"access   {target.access_in_words()}" + (f", vhost {target.vhost}" if target.product == "rabbitmq" else ""),
        f"load     at most {load}",
        f"names    {target.prefix}<16 hex digits>-<name>{more_names}; all removed at the end",
    ]


def _cell_in_words(adoption: Adoption, cell: Cell, experiment: Experiment) -> str:
    blocks = [adoption.fitted(block) for block in experiment.blocks(cell, 0)]
    plans: list[Plan] = [plan for block in blocks for plan in block]
    trials = experiment.trials(cell.profile)
    names = sorted({d.name for p in plans for d in p.workload.destinations})
    sent = sum((s.count or (s.rate_per_s or 0) * p.workload.load_s) for p in plans for s in p.workload.senders)
    hit = sorted({f"{i.fault} on {i.target} for {i.for_s:g} s" for p in plans for i in p.schedule if i.fault != "noop"})
    return (
        f"cell     {cell.claim.id}{f' [{cell.variant}]' if cell.variant else ''}: {trials * len(plans)} trials, each its own "
        f"{', '.join(names)}; about {trials * sent:.0f} messages; {'; '.join(hit) or 'no fault'}"
    )


def clean(target: Target, *, dry_run: bool = False) -> list[str]:
    """Removes what killed runs left on the target; lines that say what. Raises HarnessError where some will not go."""
    from brokerproof.runtime.journal import Journal

    journal = Journal(target.key)
    left = journal.left_by_the_dead()
    if dry_run:
        return [f"{thing.kind} {thing.name} on {target.key}" for thing in left]
    gone = adopting(target.product).remove(target, left)
    journal.gone(gone)
    if missed := [thing for thing in left if thing not in gone]:
        raise HarnessError(
            f"removed {len(gone)} of {len(left)} things from {target.key}; {missed[0].kind} {missed[0].name!r} is left: "
            f"`brokerproof target check {target.path}` says whether it is reached"
        )
    return [f"removed {thing.kind} {thing.name} from {target.key}" for thing in gone]


def loaded(path: Path) -> Target:
    """Of a file, absolute, so that a report's command works from anywhere."""
    return load(Path(os.path.abspath(path)))
