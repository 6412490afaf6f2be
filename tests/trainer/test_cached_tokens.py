"""Runs that find their rows encoded, in this process: the lines they print, and that nothing else changes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig

from ray_st import SentenceTransformerTrainingArguments
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoding import Encoding
from ray_st.data.token_cache import FOLDER
from ray_st.models.tokens import TokenEncoder
from ray_st.runtime.tune.shared_data import encoding_key
from ray_st.training.argument_checks import check_in_place
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger

from .conftest import ROWS

HERE = ScalingConfig(num_workers=0)

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are encoded."""
    texts: list[str] = []
    plain = TokenEncoder.__call__

    def counting(self: TokenEncoder, given: Any) -> Any:
        texts.extend(given)
        return plain(self, given)

    monkeypatch.setattr(TokenEncoder, "__call__", counting)
    return texts


def run(make: Any, capsys: Any, **options: Any) -> tuple[list[float], list[Any], str]:
    """Trains; the losses, the rows of each step, and the lines about the cache."""
    arguments = {"ledger": True, "eval_strategy": "epoch", **options.pop("arguments", {})}
    trainer = make(arguments=arguments, eval_dataset=ROWS.select(range(5)), scaling_config=HERE, **options)
    trainer.train()
    history = trainer.state.log_history
    losses = [entry[name] for entry in history for name in ("loss", "eval_loss") if name in entry]
    ledger = [line["rows"] for line in read_ledger(Path(trainer.args.output_dir) / LEDGER)]
    return (
        losses,
        ledger,
        "\n".join(line for line in capsys.readouterr().out.splitlines() if "token cache" in line),
    )


def test_a_second_run_encodes_nothing_and_is_the_same(
    make: Any, capsys: Any, tmp_path: Path, encoded: list[str]
) -> None:
    *plain, said = run(make, capsys, arguments={"token_cache": False})
    assert said == ""
    assert not (tmp_path / "out" / FOLDER).exists()
    texts = len(encoded)
    *cold, said = run(make, capsys)
    folder = tmp_path / "out" / FOLDER
    assert said == f"token cache: 0 rows read from {folder}, 17 encoded"
    assert len(encoded) == 2 * texts
    assert len(list(folder.iterdir())) == 2
    *warm, said = run(make, capsys)
    assert said == f"token cache: 17 rows read from {folder}, 0 encoded"
    assert len(encoded) == 2 * texts
    assert plain == cold == warm


def test_another_run_and_an_evaluation_share_a_folder(make: Any, capsys: Any, tmp_path: Path) -> None:
    shared = {"token_cache": os.fspath(tmp_path / "shared")}
    run(make, capsys, arguments=shared)
    other = {**shared, "output_dir": str(tmp_path / "other"), "per_device_train_batch_size": 6}
    assert "17 rows read" in run(make, capsys, arguments=other)[2]
    trainer = make(arguments=shared, eval_dataset=ROWS.select(range(5)), scaling_config=HERE)
    trainer.evaluate()
    assert f"token cache: 5 rows read from {tmp_path / 'shared'}, 0 encoded" in capsys.readouterr().out
    prompts = {**shared, "prompts": {"a": "query: "}}
    assert "0 rows read" in run(make, capsys, arguments=prompts)[2]
    shorter = make().model
    shorter.max_seq_length = 5
    assert "0 rows read" in run(make, capsys, arguments=shared, model=shorter)[2]
    assert "17 rows read" in run(make, capsys, arguments=prompts)[2]


def test_evaluating_alone_leaves_no_folder(make: Any, tmp_path: Path, capsys: Any) -> None:
    make(eval_dataset=ROWS, scaling_config=HERE).evaluate()
    assert not (tmp_path / "out" / FOLDER).exists()
    assert "token cache" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_costs_one_line(make: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    *plain, _ = run(make, capsys, arguments={"token_cache": False})
    *without, said = run(make, capsys, arguments={"token_cache": str(tmp_path / "file" / "cache")})
    assert without == plain
    assert said.startswith(f"warning: the token cache is not used: {tmp_path}/file/cache cannot be written (")
    assert "\n" not in said


class Own(TokenEncoder):
    """A user's encoder, whose results nothing tells."""


def test_an_encoder_of_the_users_is_asked_each_time(
    make: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make().model
    encoder = Own(model.tokenizer, model.max_seq_length)
    monkeypatch.setattr(type(model), "token_encoder", lambda self: encoder)
    for _ in range(2):
        said = run(make, capsys, model=model)[2]
        assert said == "token cache: not used: train_dataset: Own does not tell what its results depend on"


def test_trials_of_a_search_share_the_rows_of_such_an_encoder(make: Any) -> None:
    tokenizer = make().model.tokenizer

    def key(encoder: TokenEncoder) -> str:
        # As another process has it.
        return encoding_key(Encoding(ColumnSpec(("a",)), pickle.loads(pickle.dumps(encoder))))

    own = Own(tokenizer, 8)
    before = key(own)
    own.tokenizer(["good text"], truncation=True, max_length=3)
    assert key(own) == before
    assert len({before, key(Own(tokenizer, 9)), key(TokenEncoder(tokenizer, 8))}) == 3


def test_what_no_run_can_use_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="token_cache 'nowhere://x/y' cannot be opened"):
        make(arguments={"token_cache": "nowhere://x/y"}, scaling_config=HERE).train()
    args = SentenceTransformerTrainingArguments("out", token_cache="shared")
    with pytest.raises(ValueError, match="token_cache cannot be used inside a worker of Ray Train"):
        check_in_place(args, None, None)
