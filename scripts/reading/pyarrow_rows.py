"""Reads rows of a set of shards with pyarrow, and compares what they hash to with what our reader wrote.

Run: python scripts/reading/pyarrow_rows.py FOLDER HASHES.json   (measure.ts runs it)
"""

import bisect
import hashlib
import json
import sys
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

folder = Path(sys.argv[1])
expected = json.loads(Path(sys.argv[2]).read_text())
shards = json.loads((folder / "manifest.json").read_text())["shards"]
first_rows = [0, *accumulate(shard["rows"] for shard in shards)]
readers = {}


def open_shard(number):
    if number not in readers:
        reader = pa.ipc.open_file(pa.memory_map(str(folder / shards[number]["file"])))
        counts = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        readers[number] = reader, [0, *accumulate(counts)]
    return readers[number]


different = []
for row, sha256 in expected:
    number = bisect.bisect_right(first_rows, row) - 1
    reader, starts = open_shard(number)
    within = row - first_rows[number]
    batch = bisect.bisect_right(starts, within) - 1
    values = reader.get_batch(batch).slice(within - starts[batch], 1).to_pylist()[0]
    text = f"{values['id']}\0{values['caption']}\0".encode()
    if hashlib.sha256(text + values["image"]).hexdigest() != sha256:
        different.append(row)
print(f"pyarrow {pa.__version__}: {len(expected) - len(different)} of {len(expected)} rows equal")
sys.exit(f"different: {different[:10]}" if different else 0)
