"""What evaluation beside training asks of a cluster; no cluster is needed to say."""

from __future__ import annotations

import pytest
from ray.train import ScalingConfig

from ray_st.runtime.cluster import connection
from ray_st.runtime.train.background_evaluation import resources_beside


def test_resources_are_one_of_what_workers_use_unless_they_are_named() -> None:
    assert resources_beside(None, ScalingConfig(num_workers=2)) == {"CPU": 1}
    assert resources_beside(None, ScalingConfig(num_workers=2, use_gpu=True)) == {"GPU": 1}
    assert resources_beside({"CPU": 4, "slow": 0.5}, ScalingConfig(num_workers=2)) == {"CPU": 4, "slow": 0.5}


def test_a_run_must_fit_with_what_evaluates_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4, "GPU": 2})
    two = ScalingConfig(num_workers=2, use_gpu=True)
    connection.check_fits(two)
    connection.check_fits(two, {"CPU": 4})
    message = r"2 worker.*eval_on=\"background\"\) with \{'GPU': 1\} need \{'GPU': 3\}.*\{'GPU': 2\}.*eval_resources"
    with pytest.raises(ValueError, match=message):
        connection.check_fits(two, {"GPU": 1})
    connection.check_fits(ScalingConfig(num_workers=(2, 8), use_gpu=True))
    with pytest.raises(ValueError, match=r"^at least 3 worker.*need \{'GPU': 3\}"):
        connection.check_fits(ScalingConfig(num_workers=(3, 8), use_gpu=True))
    with pytest.raises(ValueError, match=r"need \{'slow': 1\}; the cluster has \{'slow': 0\}"):
        connection.check_fits(two, {"slow": 1})
