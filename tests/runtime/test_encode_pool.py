"""Encoders on Ray: the same embeddings, through a killed encoder too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from ray_st.runtime.encode.encode_pool import needs_of

TEXTS = [f"the {word} weather is good and sunny" * (place % 5) for place, word in enumerate(["man"] * 200)]


def test_what_each_encoder_asks_for() -> None:
    assert needs_of(["cpu", "cpu"]) == [{"CPU": 1}, {"CPU": 1}]
    assert needs_of(["cuda:0", "cuda:1", "cpu"]) == [{"GPU": 1}, {"GPU": 1}, {"CPU": 1}]
    assert needs_of(["cuda:0", "cuda:0", "cuda"]) == [{"GPU": 0.5}, {"GPU": 0.5}, {"GPU": 1}]
    with pytest.raises(ValueError, match="got none"):
        needs_of([])
    with pytest.raises(ValueError, match=r"'mps'"):
        needs_of(["cpu", "mps"])


@pytest.fixture
def pool(tiny_model: Any, cluster: None) -> Iterator[Any]:
    pool = tiny_model.start_multi_process_pool(["cpu", "cpu"])
    yield pool
    tiny_model.stop_multi_process_pool(pool)


@pytest.mark.ray
def test_a_pool_equals_one_process_though_an_encoder_is_killed(pool: Any, tiny_model: Any) -> None:
    expected = tiny_model.encode(TEXTS, batch_size=4)
    np.testing.assert_array_equal(tiny_model.encode(TEXTS, batch_size=4, pool=pool), expected)
    killed = pool.actors[0]
    ray.kill(killed)
    np.testing.assert_array_equal(tiny_model.encode(TEXTS, batch_size=4, pool=pool), expected)
    assert killed not in pool.actors
    with pytest.raises(ValueError, match="entry 1 is int"):
        list(pool.encode([["a", 1]], {}))  # type: ignore[list-item]
    tiny_model.stop_multi_process_pool(pool)
    with pytest.raises(ValueError, match="The pool was stopped"):
        tiny_model.encode(TEXTS, pool=pool)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_more_than_the_cluster_has(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"2 encoder.s. need \{'GPU': 2.*the cluster has \{'GPU': 0\}"):
        tiny_model.start_multi_process_pool(["cuda:0", "cuda:1"])
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_more_than_is_free(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_st.runtime.cluster.actor_pool.RESERVE_S", 0.5)
    taken = ray.util.placement_group([{"CPU": 3}])
    ray.get(taken.ready())
    try:
        with pytest.raises(ValueError, match=r"need \{'CPU': 2.*free in the whole cluster are \{'CPU': 1"):
            tiny_model.start_multi_process_pool(["cpu"] * 2)
    finally:
        ray.util.remove_placement_group(taken)
