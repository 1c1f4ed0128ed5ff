"""The one error of the codec."""

from __future__ import annotations


class WireError(Exception):
    """Octets that are no such message, or values that no such message can hold; the text says which, and where."""
