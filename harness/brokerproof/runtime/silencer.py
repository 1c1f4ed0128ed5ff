"""Client links on which every packet is dropped, by nftables in the proxy's network namespace.

    client --- the engine's forwarder ---X--- toxiproxy --- node

The proxy's own toxics cannot do that: it goes on acknowledging TCP segments. Here nothing is acknowledged any more
across the cut: segments are sent again and again by both kernels, keepalive goes unanswered, and an end that gives up
cannot tell the other one.
"""

from __future__ import annotations

from brokerproof.runtime.node import ContainerNode
from brokerproof.runtime.peers import enter


class ContainerSilencer:
    """``runtime.proxy.Silencer`` by a table for each port in the namespace of the proxy's container."""

    def __init__(self, side: ContainerNode, proxy: ContainerNode) -> None:
        self._side, self._proxy = side, proxy

    def silence(self, port: int) -> None:
        table = f"inet brokerproof_link_{port}"
        lines = [
            f"add table {table}",
            f"add chain {table} input {{ type filter hook input priority 0; }}",
            f"add chain {table} output {{ type filter hook output priority 0; }}",
            f"add rule {table} input tcp dport {port} counter drop",
            f"add rule {table} output tcp sport {port} counter drop",
        ]
        text = "\\n".join(lines)
        self._nft(f"printf '{text}\\n' | nsenter -t {self._proxy.pid()} -n nft -f -", f"dropping port {port}")

    def unsilence(self, port: int) -> None:
        delete = f"nsenter -t {self._proxy.pid()} -n nft delete table inet brokerproof_link_{port} 2>/dev/null; true"
        self._nft(delete, f"letting port {port} through again")

    def _nft(self, script: str, doing: str) -> None:
        enter(self._side, ["sh", "-c", script], doing)
