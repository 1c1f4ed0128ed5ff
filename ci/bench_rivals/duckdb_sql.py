"""Loss, duplicates and phantoms as SQL in DuckDB over the same file. Prints the same counts as ``check``."""

from __future__ import annotations

import json
import sys

import duckdb
import pyarrow as pa

history = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all().unify_dictionaries()
con = duckdb.connect()
con.register("history", history)
same = "count(DISTINCT (lane, pos)) > 1" if sys.argv[2] == "log" else "count(*) FILTER (attempt = 0) > 1"
(counts,) = con.execute(f"""
    WITH sends AS (SELECT msg, bool_or(outcome = 'ok') AS acknowledged FROM history WHERE f = 'send' GROUP BY msg),
    receives AS (SELECT msg, {same} AS doubled FROM history WHERE f = 'receive' AND outcome = 'ok' GROUP BY msg)
    SELECT count(*) FILTER (acknowledged AND r.msg IS NULL), count(*) FILTER (doubled), count(*) FILTER (s.msg IS NULL)
    FROM sends s FULL OUTER JOIN receives r ON s.msg = r.msg
""").fetchall()
print(json.dumps(dict(zip(("lost", "duplicated", "phantom"), counts, strict=True))))
