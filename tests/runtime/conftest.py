from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local Ray cluster for all tests, with more CPUs on paper than the machine may have."""
    import ray

    import runtime_helpers

    ray.cloudpickle.register_pickle_by_value(runtime_helpers)  # workers do not have tests on their path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=4, num_gpus=0, log_to_driver=False, object_store_memory=500_000_000)
    yield
    ray.shutdown()
