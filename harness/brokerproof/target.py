"""A broker that somebody else runs: what a target file says of it.

    product = "rabbitmq"

    [nodes.r1]
    address = "rabbit-1.example.com:5672"

    [access]
    user = "brokerproof"
    password_env = "RABBIT_PASSWORD"
    vhost = "brokerproof"

The file holds no credential: only where one is found. ``brokerproof target init`` writes one with every key explained.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokerproof.credentials import Credential, told
from brokerproof.errors import UsageError, unknown

#: Messages that all senders together send in a second at most, where the file does not say.
MESSAGES_PER_S = 300.0
#: What the names of everything that we make begin with, where the file does not say.
PREFIX = "bp-"
#: Products whose running clusters can be stood on, and the port of each where an address has none.
PORTS: Mapping[str, int] = {"rabbitmq": 5672, "kafka": 9092, "rocketmq": 10911}
_TLS_PORTS: Mapping[str, int] = {"rabbitmq": 5671, "kafka": 9093}
_TOP = {"product", "version", "nodes", "access", "tls", "limits", "names", "kafka", "rocketmq", "toxiproxy"}
_NODE = {"address", "container", "kill", "start", "proxies"}
#: The commands that a node may have: name of the key -> what it is to do.
COMMANDS: Mapping[str, str] = {"kill": "end the node at once, as SIGKILL does", "start": "start it again"}
_ACCESS = {"user", "vhost", "mechanism"}
_TLS = {"ca_file", "cert_file", "key_file", "server_name", "verify"}
_SECRETS = {"access": ("password",), "tls": ("key_password",)}
_KAFKA = {"client_properties"}
_TOXIPROXY = {"as", "server"}
_ROCKETMQ = {"proxy", "name_servers", "useEndpointPortFromRequest"}
_GATEWAY_PORT, _NAME_SERVER_PORT = 8081, 9876
#: Names of settings that hold a credential in whatever spelling: never literally in the file.
_SECRET = re.compile(r"pass(word|wd|phrase)?$|secret|token|credential", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetNode:
    """address: (host, port) as this machine reaches it.  container: its name in the container engine, if it has one.

    commands: key of ``COMMANDS`` -> the shell's command.
    proxies: client group -> (port on loopback that its proxy has, (host, port) that the proxy dials); Kafka only.
    """

    name: str
    address: tuple[str, int]
    container: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, tuple[int, tuple[str, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """ca: "" the machine's own.  cert, key: of the client, "" none.  server_name: what the certificate has to say, ""
    the host of the address."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    key_password: Credential = ""
    server_name: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """version: "" as the broker says.  mechanism: of the product (``PLAIN``, ``EXTERNAL``, ``SCRAM-SHA-512`` …).

    client_properties: Kafka: a file of settings in librdkafka's words.
    toxiproxy: ``container``, ``local`` (a process), "" whichever can be had.  toxiproxy_server: the program, "" as found.
    gateway, name_servers: RocketMQ: (host, port) of the gRPC proxy, and of each name server.
    port_from_request: whether the gRPC proxy sends clients back to the port that they came to.
    """

    path: Path
    product: str
    nodes: Mapping[str, TargetNode]
    version: str = ""
    user: str = ""
    password: Credential = ""
    mechanism: str = ""
    vhost: str = "/"
    tls: Tls | None = None
    messages_per_s: float = MESSAGES_PER_S
    prefix: str = PREFIX
    client_properties: str = ""
    toxiproxy: str = ""
    toxiproxy_server: str = ""
    gateway: tuple[str, int] | None = None
    name_servers: tuple[tuple[str, int], ...] = ()
    port_from_request: bool = False

    @property
    def key(self) -> str:
        """Tells this broker from others: product, addresses and vhost."""
        addresses = sorted(f"{n.address[0]}:{n.address[1]}" for n in self.nodes.values())
        text = "/".join((self.product, *addresses, self.vhost))
        return f"{self.product}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def on_loopback(self) -> bool:
        """Whether a node is reached by an address that means this machine itself: no other network namespace reaches it."""
        dialled = [n.address for n in self.nodes.values()]
        dialled += [upstream for n in self.nodes.values() for _, upstream in n.proxies.values()]
        dialled += [self.gateway] if self.gateway else []
        return any(host in ("localhost", "::1") or host.startswith("127.") for host, _ in dialled)

    def public(self) -> dict[str, Any]:
        """What results and reports say of it: no credential is in it, nor where one is found."""
        own = {} if self.gateway is None else {
            "proxy": joined(self.gateway), "name_servers": [joined(a) for a in self.name_servers],
            "useEndpointPortFromRequest": self.port_from_request,
        }  # fmt: skip
        return {
            "nodes": {n.name: f"{n.address[0]}:{n.address[1]}" for n in self.nodes.values()},
            "user": self.user, "vhost": self.vhost, "mechanism": self.mechanism, "tls": self.tls is not None,
            "messages_per_s": self.messages_per_s, "prefix": self.prefix, **own,
        }  # fmt: skip

    def identity(self, version: str) -> dict[str, Any]:
        """What a run is about, ``public`` and more: the version that the broker said, and a digest of how its nodes are broken
        (commands are not for reports)."""
        ways = {name: [node.container, *sorted(node.commands.items())] for name, node in sorted(self.nodes.items())}
        digest = hashlib.sha256(json.dumps(ways).encode()).hexdigest()[:12]
        return {**self.public(), "version": version, "ways_to_break_nodes": digest}

    def access_in_words(self) -> str:
        """As whom, by what, and where the credential is found."""
        if self.client_properties:
            return f"as {self.client_properties} says"
        who = self.user or ("the client's certificate" if self.tls is not None and self.tls.cert else "nobody")
        parts = [f"as {who}"] + ([f"password from {told(self.password)}"] if self.user else [])
        parts += [f"mechanism {self.mechanism}"] if self.mechanism else []
        return ", ".join([*parts, "TLS" if self.tls is not None else "no TLS"])


def load(path: Path) -> Target:
    """Reads a target file. Raises UsageError that says the key, what was expected, and what to write instead."""
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as exc:
        raise UsageError(
            f"no target file {str(path)!r}; `brokerproof target init --product rabbitmq {path}` writes one to fill in"
        ) from exc
    except (OSError, ValueError) as exc:
        raise UsageError(f"target file {str(path)!r} cannot be read: {exc}") from exc
    # Before anything else: what is printed of the file later must not have a credential in it.
    _no_literals(path, data)
    return _parsed(path, data)


def _no_literals(path: Path, data: Mapping[str, Any], where: str = "") -> None:
    for key, value in data.items():
        if isinstance(value, Mapping):
            _no_literals(path, value, f"{where}{key}.")
        elif _SECRET.search(key):
            raise UsageError(
                f'target file {str(path)!r}: {where}{key} holds a credential; write {where}{key}_env = "NAME" (a variable of '
                f'the environment) or {where}{key}_file = "path" instead, and take the value out of the file'
            )
        elif isinstance(value, str) and re.search(r"://[^/@\s:]*:[^/@\s]+@", value):
            raise UsageError(
                f"target file {str(path)!r}: {where}{key} is a URL with a password in it; write host:port, and the password "
                'as password_env = "NAME" or password_file = "path" in [access]'
            )


def _parsed(path: Path, data: Mapping[str, Any]) -> Target:
    def known(table: Mapping[str, Any], keys: set[str], where: str) -> None:
        for key in table:
            if key not in keys:
                raise unknown(f"key of {where} in target file {str(path)!r}", key, keys)

    def table(name: str, keys: set[str]) -> Mapping[str, Any]:
        found = data.get(name, {})
        if not isinstance(found, Mapping):
            raise UsageError(f"target file {str(path)!r}: {name} is {found!r}; expected a table, [{name}]")
        secrets = {f"{s}_{place}" for s in _SECRETS.get(name, ()) for place in ("env", "file")}
        known(found, keys | secrets, f"[{name}]")
        return found

    known(data, _TOP, "the top level")
    product = data.get("product", "")
    if product not in PORTS:
        raise unknown(f"product in target file {str(path)!r}", str(product), PORTS)
    access, tls, limits, names = table("access", _ACCESS), data.get("tls"), table("limits", {"messages_per_s"}), None
    names = table("names", {"prefix"})
    own, rocketmq = table("kafka", _KAFKA), table("rocketmq", _ROCKETMQ)
    if product == "rocketmq":
        _rocketmq_can(path, data, access)
    proxy = table("toxiproxy", _TOXIPROXY)
    # Who names the program means it.
    proxy_as = str(proxy.get("as", "local" if "server" in proxy else ""))
    if proxy_as not in ("", "container", "local") or (proxy_as == "container" and "server" in proxy):
        raise UsageError(
            f'target file {str(path)!r}: toxiproxy.as is {proxy_as!r}; expected "container", or "local" (a process, whose program '
            "toxiproxy.server names)"
        )
    nodes = _nodes(path, product, data.get("nodes"), tls is not None)
    prefix = str(names.get("prefix", PREFIX))
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"target file {str(path)!r}: names.prefix is {prefix!r}; expected 2 to 40 letters, digits, - and _, a letter first"
        )
    rate = limits.get("messages_per_s", MESSAGES_PER_S)
    if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 1 <= rate <= 1e6:
        raise UsageError(f"target file {str(path)!r}: limits.messages_per_s is {rate!r}; expected 1 to 1000000")
    made_tls = None
    if tls is not None:
        tls = table("tls", _TLS)
        made_tls = Tls(
            ca=_file(path, tls, "ca_file"), cert=_file(path, tls, "cert_file"), key=_file(path, tls, "key_file"),
            key_password=_credential(path, tls, "key_password"), server_name=str(tls.get("server_name", "")),
            verify=bool(tls.get("verify", True)),
        )  # fmt: skip
    return Target(
        path=path, product=product, nodes=nodes, version=str(data.get("version", "")), user=str(access.get("user", "")),
        password=_credential(path, access, "password"), mechanism=str(access.get("mechanism", "")),
        vhost=str(access.get("vhost", "/")), tls=made_tls, messages_per_s=float(rate), prefix=prefix,
        client_properties=_file(path, own, "client_properties"), toxiproxy=proxy_as,
        toxiproxy_server=_file(path, proxy, "server"),
        **(_gateway(path, rocketmq) if product == "rocketmq" else {}),
    )  # fmt: skip


def _rocketmq_can(path: Path, data: Mapping[str, Any], access: Mapping[str, Any]) -> None:
    """Raises UsageError for what our clients of RocketMQ cannot do."""
    where = f"target file {str(path)!r}"
    if "tls" in data:
        raise UsageError(
            f"{where}: [tls] is not offered for RocketMQ, whose Python library takes no certificates; leave it out, and let brokers "
            "and proxy answer without as well (tls.server.mode=permissive, their default)"
        )
    if other := sorted({"vhost", "mechanism"} & set(access)):
        raise UsageError(
            f"{where}: access.{other[0]} is not RocketMQ's; user is the access key, password_env or password_file where the secret "
            "key is found"
        )


def _gateway(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What [rocketmq] says, as fields of a ``Target``. Raises UsageError."""
    where = f"target file {str(path)!r}, rocketmq"
    if not given.get("proxy"):
        raise UsageError(
            f'{where}.proxy is not there: clients of RocketMQ 5 speak to its gRPC proxy; write proxy = "host:{_GATEWAY_PORT}" in '
            "[rocketmq], and start one where there is none: mqproxy -n NAMESERVER:9876 -pm cluster"
        )
    names = given.get("name_servers")
    if not isinstance(names, list) or not names:
        raise UsageError(
            f'{where}.name_servers is {names!r}; write name_servers = ["host:{_NAME_SERVER_PORT}"], all of them'
        )
    gateway = address(str(given["proxy"]), _GATEWAY_PORT, f"{where}.proxy")
    if ":" in gateway[0]:
        raise UsageError(
            f"{where}.proxy is {given['proxy']!r}: the vendor's Python library takes no IPv6 address; write a name"
        )
    port_from_request = given.get("useEndpointPortFromRequest", False)
    if not isinstance(port_from_request, bool):
        raise UsageError(f"{where}.useEndpointPortFromRequest is {port_from_request!r}; expected true or false")
    return {
        "gateway": gateway, "port_from_request": port_from_request,
        "name_servers": tuple(address(str(a), _NAME_SERVER_PORT, f"{where}.name_servers") for a in names),
    }  # fmt: skip


def _nodes(path: Path, product: str, given: Any, tls: bool) -> dict[str, TargetNode]:
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f'target file {str(path)!r} names no node; write [nodes.n1] with address = "host:port", one for each broker'
        )
    out = {}
    for name, node in given.items():
        where = f"target file {str(path)!r}, nodes.{name}"
        if not _NAME.fullmatch(name) or not isinstance(node, Mapping):
            raise UsageError(f"{where}: expected a table of that name, letters and digits: [nodes.n1]")
        for key in node:
            if key not in _NODE:
                raise unknown(f"key of [nodes.{name}] in target file {str(path)!r}", key, _NODE)
        port = (_TLS_PORTS if tls and product in _TLS_PORTS else PORTS)[product]
        proxies = {}
        for group, at in node.get("proxies", {}).items():
            if not isinstance(at, Mapping) or set(at) != {"port", "upstream"}:
                raise UsageError(
                    f'{where}.proxies.{group}: expected {{ port = 19191, upstream = "host:port" }}, got {at!r}'
                )
            proxies[group] = (int(at["port"]), address(str(at["upstream"]), port, f"{where}.proxies.{group}"))
        if "address" not in node:
            raise UsageError(f'{where} has no address; write address = "host:{port}"')
        out[name] = TargetNode(
            name=name, address=address(str(node["address"]), port, where), container=str(node.get("container", "")),
            commands={key: str(node[key]) for key in COMMANDS if node.get(key)}, proxies=proxies,
        )  # fmt: skip
    return out


def address(text: str, port: int, where: str) -> tuple[str, int]:
    """``host[:port]``, ``[v6]:port``. Raises UsageError."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(?::(\d{1,5}))?", text)
    if found is None or not 0 < int(found[2] or port) < 65536:
        raise UsageError(f"{where}: address {text!r}; expected host:port, e.g. broker-1.example.com:{port}")
    return found[1].strip("[]"), int(found[2] or port)


def joined(at: tuple[str, int]) -> str:
    """``host:port``, ``[v6]:port``."""
    host, port = at
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _credential(path: Path, table: Mapping[str, Any], key: str) -> Credential:
    env, file = table.get(f"{key}_env"), table.get(f"{key}_file")
    if env and file:
        raise UsageError(f"target file {str(path)!r}: {key}_env and {key}_file are both there; keep one")
    if env:
        return {"env": str(env)}
    return {"file": _relative(path, str(file))} if file else ""


def _file(path: Path, table: Mapping[str, Any], key: str) -> str:
    named = str(table.get(key, ""))
    if not named:
        return ""
    found = _relative(path, named)
    if not Path(found).is_file():
        raise UsageError(f"target file {str(path)!r}: {key} is {named!r}, and there is no file {found!r}")
    return found


def _relative(path: Path, named: str) -> str:
    """Relative names are meant from the target file's own folder."""
    return str((path.absolute().parent / Path(named).expanduser()).resolve())
