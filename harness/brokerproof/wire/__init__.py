"""Codecs of the brokers' protocols, sans-IO: octets in, events out; values in, octets out.

One module or package per protocol. Each has a legal side, which refuses to build what its specification forbids, and an
illegal one, which builds exactly that. Nothing here opens a socket or knows the time.
"""
