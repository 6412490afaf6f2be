from __future__ import annotations

import threading
from typing import Any

from ray_st.training.data.specs import TRAIN, eval_key, eval_names
from ray_st.training.trainer_spec import _sendable


def test_sources_of_evaluation_datasets_are_found_by_their_names() -> None:
    sources: Any = {TRAIN: 0, eval_key(""): 1, eval_key("a:b"): 2, eval_key("train"): 3}
    assert len(sources) == 4
    assert eval_names(sources) == {"": 1, "a:b": 2, "train": 3}


def test_an_attribute_that_cannot_travel_is_left_and_named(capsys: Any) -> None:
    sent = _sendable({"losses": [1.0], "lock": threading.Lock(), "hook": lambda: None})
    assert sent == {"losses": [1.0]}
    assert "'lock' (lock) cannot be sent" in capsys.readouterr().out
