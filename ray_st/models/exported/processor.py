"""Which processors a quantized file is made for, by its name, and what this machine has."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

from ray_st.models.exported.backend_options import PROCESSORS
from ray_st.models.folder_files import ModelFolderError

_NAMED = re.compile(rf"_({'|'.join(sorted(PROCESSORS, key=len, reverse=True))})(?=[_.]|$)")
_NEEDS = {"avx2": "avx2", "avx512": "avx512bw", "avx512_vnni": "avx512_vnni"}
_CPU_INFO = Path("/proc/cpuinfo")
_ARM = ("arm64", "aarch64")


def processor_of(name: str) -> str | None:
    """The processor that a file is made for, by its name; None if it does not say."""
    found = _NAMED.search(name)
    return found[1] if found else None


def check_processor(name: str) -> None:
    """Rejects a file whose int8 arithmetic this machine lacks: elsewhere sums overflow, or it is slow.

    Args:
        name: The file's name.

    Raises:
        ModelFolderError: Naming what this machine has.
    """
    asked = processor_of(name)
    if asked is None or asked in (here := processors_here()):
        return
    cure = f"export one for {here[-1]!r}" if here else "use a file in float32"
    raise ModelFolderError(
        f"{name} is quantized for processors with {asked}; this one has {', '.join(here) or 'none of them'}. "
        f"Choose another file with model_kwargs={{'file_name': …}}, or {cure}."
    )


@functools.cache
def processors_here() -> tuple[str, ...]:
    """Which of :data:`PROCESSORS` this machine is, the best last; on x86 only Linux tells."""
    if platform.machine().lower() in _ARM:
        return ("arm64",)
    if not _CPU_INFO.is_file():
        return tuple(_NEEDS)
    flags = set(re.findall(r"^flags\s*:(.*)$", _CPU_INFO.read_text(), re.MULTILINE)[0].split())
    return tuple(name for name, flag in _NEEDS.items() if flag in flags)
