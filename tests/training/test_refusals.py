"""What cannot be followed is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from ray_st import SentenceTransformerTrainingArguments
from ray_st.training.refusals import check_arguments, check_in_place, make_folder


def make(**given: Any) -> Any:
    return SentenceTransformerTrainingArguments("out", **given)


def test_arguments_that_a_run_cannot_follow() -> None:
    check_arguments(make(gradient_checkpointing=True))
    name = "enable_jit_checkpoint"
    with pytest.raises(ValueError, match=rf"^{name} cannot be used: .* Leave {name} out\.$"):
        check_arguments(make(**{name: True}))


@pytest.mark.parametrize("given", [{"ledger": True}, {"auto_find_batch_size": True}, {"ddp_backend": "gloo"}])
def test_arguments_that_have_no_effect_in_a_worker_of_ones_own(given: dict[str, Any]) -> None:
    check_in_place(make(), None, None)
    with pytest.raises(
        ValueError, match=rf"^{next(iter(given))} cannot be used inside a worker of Ray Train: "
    ):
        check_in_place(make(**given), None, None)


def test_configurations_of_a_run_that_is_running() -> None:
    for configs in ((object(), None), (None, object())):
        with pytest.raises(ValueError, match="_config has no effect inside a worker of Ray Train"):
            check_in_place(make(), *configs)


def test_a_folder_that_cannot_be_made(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"file/out cannot be written .* Choose another output_dir"):
        make_folder(str(tmp_path / "file" / "out"))
