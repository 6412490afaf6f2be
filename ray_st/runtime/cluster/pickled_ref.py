"""Values that stay pickled until a worker opens them."""

from __future__ import annotations

from typing import Any

import ray
from ray import cloudpickle


class PickledRef:
    """A value in the object store that stays pickled between this process and a worker.

    Ray Train's controller unpickles what it passes on, and would have to import everything the value needs;
    Ray's dashboard exports do not show its content; and a module missing on a worker raises an
    ``ImportError`` there instead of an error of Ray's.

    Args:
        value: Any value that cloudpickle supports.
    """

    def __init__(self, value: Any) -> None:
        self._reference = ray.put(cloudpickle.dumps(value))

    def open(self) -> Any:
        """A fresh copy of the value."""
        return cloudpickle.loads(ray.get(self._reference))
