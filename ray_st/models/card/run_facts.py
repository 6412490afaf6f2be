"""Facts of a training run for its model's card: the cluster, the emissions, and the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Cluster:
    """The cluster that trained the model.

    Args:
        workers: Number of workers.
        nodes: Number of their nodes.
        devices: Name of each worker's kind of device.
        ray: Version of Ray; empty if it was not used.
    """

    workers: int
    nodes: int
    devices: tuple[str, ...]
    ray: str = ""

    def facts(self) -> dict[str, str]:
        """The card's entries, by name."""
        counts = Counter(self.devices)
        kinds = ", ".join(f"{count} × {name}" for name, count in counts.items())
        return {"Workers": str(self.workers), "Nodes": str(self.nodes), "Devices": kinds, "Ray": self.ray}


@dataclass(frozen=True)
class Emissions:
    """CodeCarbon's measurements.

    Args:
        kg: Kilograms of CO2 equivalents.
        kwh: Energy, in kWh.
        hours: Duration.
        on_cloud: Whether the machine belongs to a cloud provider.
        cpu: Kind of CPU.
        gpu: Kind of GPU; empty without one.
        memory_gb: Memory, in GB.
    """

    kg: float
    kwh: float
    hours: float = 0.0
    on_cloud: bool = False
    cpu: str = ""
    gpu: str = ""
    memory_gb: float = 0.0

    def then(self, later: Emissions) -> Emissions:
        """The sum of these and later emissions, with the later machine's description."""
        return _replaced(later, (self, later), self.hours + later.hours)

    @staticmethod
    def together(parts: Iterable[Emissions | None]) -> Emissions | None:
        """The sum of several nodes' simultaneous emissions; None if none measured any."""
        known = [part for part in parts if part is not None]
        return _replaced(known[0], known, max(part.hours for part in known)) if known else None

    def header(self) -> dict[str, Any]:
        """The entry ``co2_eq_emissions`` of a card's header, in the Hub's form: emissions in grams."""
        known = {
            "emissions": self.kg * 1000,
            "energy_consumed": self.kwh,
            "source": "codecarbon",
            "training_type": "fine-tuning",
            "on_cloud": self.on_cloud,
            "cpu_model": self.cpu,
            "ram_total_size": self.memory_gb,
            "hours_used": round(self.hours, 3),
            "hardware_used": self.gpu,
        }
        return {name: value for name, value in known.items() if value != ""}

    def facts(self) -> dict[str, str]:
        """The card's entries, by name."""
        return {
            "Energy": f"{self.kwh:.3g} kWh",
            "Emissions": f"{self.kg:.3g} kg of CO2 equivalents",
            "On a cloud": "yes" if self.on_cloud else "no",
            "GPU": self.gpu or "none",
            "CPU": self.cpu,
            "Memory": f"{self.memory_gb:.2f} GB" if self.memory_gb else "",
        }


def _replaced(like: Emissions, parts: Sequence[Emissions], hours: float) -> Emissions:
    return replace(like, kg=sum(part.kg for part in parts), kwh=sum(part.kwh for part in parts), hours=hours)


def duration(seconds: float) -> str:
    """Seconds in words, such as "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes <= 60 else f"{minutes // 60} h {minutes % 60} min"
