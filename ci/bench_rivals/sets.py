"""What one writes first: a Python object per row, sets and a dictionary. Prints the same counts as ``check``."""

from __future__ import annotations

import json
import sys
from collections import Counter

import pyarrow as pa

sent: set[int] = set()
acknowledged: set[int] = set()
places: dict[int, set[tuple[int, int]]] = {}
fresh: Counter[int] = Counter()
names = ("f", "outcome", "msg", "lane", "pos", "attempt")
for batch in pa.ipc.open_stream(pa.memory_map(sys.argv[1])):
    for f, outcome, msg, lane, pos, attempt in zip(*(batch[name].to_pylist() for name in names), strict=True):
        if f == "send":
            sent.add(msg)
            if outcome == "ok":
                acknowledged.add(msg)
        elif f == "receive" and outcome == "ok":
            places.setdefault(msg, set()).add((lane, pos))
            fresh[msg] += attempt == 0
doubled = (len(p) > 1 for p in places.values()) if sys.argv[2] == "log" else (n > 1 for n in fresh.values())
print(json.dumps({"lost": len(acknowledged - places.keys()), "duplicated": sum(doubled),
                  "phantom": len(places.keys() - sent)}))  # fmt: skip
