"""Data files that a page takes in when it needs them, also from disk.

A page that was opened from disk may not fetch anything, but it may load a script of its own folder. So a chunk is a script
that hands one JSON value over under its name:

    brokerproof.take("<name>", <JSON>);

Values are lists and objects with keys of ours only; whatever others named stands in values, since a key such as
``__proto__`` would not be a key to a script.
"""

from __future__ import annotations

from typing import Any

from brokerproof.render.html import script_json


def chunk(name: str, value: Any) -> str:
    """The text of the file. Nothing in it can end a script element, should somebody paste it into one."""
    # Two line ends of Unicode are none to JSON, but were to scripts before 2019.
    said = f"brokerproof.take({script_json(name)}, {script_json(value)});\n"
    return said.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
