from __future__ import annotations

import re
from pathlib import Path

import pytest

from ray_st.cli import main
from ray_st.cli.runfile import read_run
from ray_st.cli.train import prepare

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # Ray leaves sockets to the garbage collector


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_it_fills_the_cache_that_a_run_reads(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("out/token-cache").absolute()
    assert main(["encode-data", run_file]) == 0
    # The evaluation data is the same as the training data.
    line, sizes = capsys.readouterr().out.splitlines()[-2:]
    assert line == f"token cache: 4 rows read from {folder}, 4 encoded"
    (entry,) = folder.iterdir()
    assert re.fullmatch(rf"8 rows in 1 of 1 entries, {entry.stat().st_size:,} bytes, \d+\.\d s", sizes)
    trainer = prepare(read_run(run_file, ["scaling.num_workers=0", "scaling.resources_per_worker="])).trainer
    trainer.train()
    assert f"token cache: 4 rows read from {folder}, 0 encoded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("args.token_cache=false", "run.yaml: args.token_cache: there is no folder to fill"),
        (
            "args.token_cache=nowhere://x/y",
            "run.yaml: args.token_cache: token_cache 'nowhere://x/y' cannot be opened",
        ),
        ("args.token_cache=pairs.csv/x", "run.yaml: args.token_cache: there is no folder to fill"),
        ("args.token_cache=3", "run.yaml: args: token_cache must be a folder, its URI, None for"),
        ("data.train=nowhere.csv", "data.train: nowhere.csv: no such file"),
    ],
)
def test_it_refuses(run_file: str, override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode-data", run_file, override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("ray-st: ")
    assert error.count("\n") == 1
