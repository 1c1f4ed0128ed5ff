"""Loss, duplicates and phantoms as polars joins over the same file. Prints the same counts as ``check``."""

from __future__ import annotations

import json
import sys

import polars as pl
import pyarrow as pa

table = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all()
wanted = table.select(["f", "outcome", "msg", "lane", "pos", "attempt"])
# Dictionaries that grow by deltas differ from chunk to chunk; one dictionary is what polars takes without a copy.
rows = (
    pl.DataFrame(pl.from_arrow(wanted.unify_dictionaries())).lazy().with_columns(pl.col("f", "outcome").cast(pl.String))
)
sends = rows.filter(pl.col("f") == "send")
receives = rows.filter((pl.col("f") == "receive") & (pl.col("outcome") == "ok"))
lost = sends.filter(pl.col("outcome") == "ok").join(receives, on="msg", how="anti").select(pl.col("msg").n_unique())
phantom = receives.join(sends, on="msg", how="anti").select(pl.col("msg").n_unique())
if sys.argv[2] == "log":
    many = receives.unique(["msg", "lane", "pos"]).group_by("msg").len()
else:
    many = receives.filter(pl.col("attempt") == 0).group_by("msg").len()
duplicated = many.filter(pl.col("len") > 1).select(pl.len())
found = [int(frame.item()) for frame in pl.collect_all([lost, duplicated, phantom])]
print(json.dumps(dict(zip(("lost", "duplicated", "phantom"), found, strict=True))))
