"""Data from the Hub, CSV, JSON, Parquet, Arrow, SQL or a dict, and what the trainer reads directly."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from ray.train import ScalingConfig

from offline import start
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.data.sources import Sql
from ray_st.losses import CoSENTLoss


def main(scaling_config: ScalingConfig | None = None) -> None:
    """Writes the same rows in several formats, and reads them back."""
    from_hub = datasets.load_dataset("sentence-transformers/stsb", split="train")
    print(from_hub)

    # The same rows in several file formats
    files = {kind: Path("data", f"pairs.{kind}").absolute() for kind in ("csv", "json", "parquet", "db")}
    write(from_hub, files)

    with closing(sqlite3.connect(files["db"])) as database:
        loaded = {
            "csv": datasets.load_dataset("csv", data_files=str(files["csv"]), split="train"),
            "json": datasets.load_dataset("json", data_files=str(files["json"]), split="train"),
            "parquet": datasets.load_dataset("parquet", data_files=str(files["parquet"]), split="train"),
            "arrow": datasets.load_dataset(
                "arrow", data_files=f"{files['csv'].parent}/arrow/*.arrow", split="train"
            ),
            "sql": datasets.Dataset.from_sql("SELECT * FROM pairs ORDER BY rowid", database),
            "dict": datasets.Dataset.from_dict(
                {"text": from_hub["sentence1"], "other": from_hub["sentence2"]}
            ),
        }
    for kind, dataset in loaded.items():
        print(f"{kind}: {dataset.num_rows} rows of {dataset.column_names}")

    # Columns are inputs, in order, except one named label, labels, score or scores: select and order them.
    tidy = loaded["csv"].add_column("source", ["us"] * loaded["csv"].num_rows)
    tidy = tidy.remove_columns("source").select_columns(["sentence2", "sentence1", "score"])

    # The trainer also reads files, columns, queries, tables and Ray Datasets directly. Several at once:
    train_dataset: dict[str, Any] = {
        "a dataset": tidy,
        "a file": str(files["parquet"]),
        "columns": from_hub.to_dict(),
        "a query": Sql("SELECT * FROM pairs ORDER BY rowid", partial(sqlite3.connect, files["db"])),
    }
    model = SentenceTransformer("microsoft/mpnet-base")
    args = SentenceTransformerTrainingArguments(
        "models/data-loading", num_train_epochs=1, multi_dataset_batch_sampler="round_robin"
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        loss=CoSENTLoss(model),
        scaling_config=scaling_config,
    )
    print(trainer.train())


def write(dataset: datasets.Dataset, files: dict[str, Path]) -> None:
    """Writes the rows as CSV, JSON lines, Parquet, an Arrow folder and an SQLite table."""
    folder = files["csv"].parent
    folder.mkdir(parents=True, exist_ok=True)
    dataset.to_csv(files["csv"], index=False)
    dataset.to_json(files["json"])
    dataset.to_parquet(files["parquet"])
    dataset.save_to_disk(folder / "arrow")
    files["db"].unlink(missing_ok=True)
    with closing(sqlite3.connect(files["db"])) as database, database:
        database.execute("CREATE TABLE pairs (sentence1 TEXT, sentence2 TEXT, score REAL)")
        database.executemany(
            "INSERT INTO pairs VALUES (?, ?, ?)", zip(*dataset.to_dict().values(), strict=True)
        )


if __name__ == "__main__":
    start(main)
