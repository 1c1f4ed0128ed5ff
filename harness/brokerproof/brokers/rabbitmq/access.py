"""How a client is let in: the part of pika's parameters that an endpoint says, for every connection that is made.

``user``, ``password`` (see ``credentials``), ``vhost``; ``external``: by the client's certificate; ``tls``: ``ca``, ``cert``,
``key``, ``key_password``, ``verify``, ``server_name`` (node's proxy port -> the name on the node's certificate, since
clients dial the proxy).
Source: https://www.rabbitmq.com/docs/ssl, https://www.rabbitmq.com/docs/access-control#mechanisms
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pika

from brokerproof.brokers.tls import context
from brokerproof.credentials import reveal

#: Of a broker of our own.
GUEST: Mapping[str, Any] = {"user": "guest", "password": "guest", "vhost": "/"}


def parameters(endpoint: Mapping[str, Any], host: str, port: int, **more: Any) -> pika.ConnectionParameters:
    """more: of ``pika.ConnectionParameters``. Raises UsageError where a credential or a file is not there."""
    credentials: Any = (
        pika.credentials.ExternalCredentials()
        if endpoint.get("external")
        else pika.PlainCredentials(endpoint["user"], reveal(endpoint["password"]))
    )
    tls = endpoint.get("tls")
    options = None if not tls else pika.SSLOptions(context(tls), str(tls["server_name"].get(str(port), host)))
    return pika.ConnectionParameters(
        host=host, port=port, virtual_host=endpoint["vhost"], credentials=credentials, ssl_options=options, **more
    )
