"""The most memory that a stretch of a process took, on its GPU or in the host."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux resets the peak of a process's resident memory by (proc_pid_clear_refs, section 5)."""


class PeakMemory:
    """Measures peaks from its creation on; a process may have done other things before."""

    def __init__(self) -> None:
        self._fault: OSError | None = None
        if torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)
        try:
            CLEAR.write_text(_RESET_PEAK)
        except OSError as error:
            self._fault = error

    def bytes_on(self, device: torch.device) -> int:
        """Peak so far: allocated on a GPU, or resident in this process for any other device.

        Args:
            device: The device that is computed on.

        Raises:
            OSError: If the peak of resident memory cannot be measured here: only Linux can reset it.
        """
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        if self._fault is not None:
            raise self._fault
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
