"""Kafka's wire protocol, sans-IO: octets in, values out, and back; also what no client may send.

    errors.py    WireError: the one error of this package
    octets.py    primitive types, read with bounds and written
    schema.py    the messages, walked from kio's dataclasses: ``dict`` in, octets out, and back
    frames.py    length, header, body; requests and responses
    records.py   record batches of magic 2, whole or broken on purpose
    packing.py   the four compressions
    removed.py   requests of versions that were taken away, by hand
    murmur.py    the vendor's default partitioner

Source: protocol guide, https://kafka.apache.org/protocol.html; KIP-482 (tagged fields), KIP-511 (ApiVersions).
"""
