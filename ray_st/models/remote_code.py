"""Python files that a model folder brings along and ``trust_remote_code`` allows to run ("remote code").

transformers copies such files into a cache of its own and imports them as ``transformers_modules.…``. Another
process can import neither them nor, by name, their classes until it has the files: they travel as text,
beside what is pickled.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, dynamic_module_utils

from ray_st.util.atomic import write_whole

_PACKAGE = "transformers_modules"


def is_remote(kind: type) -> bool:
    """Whether a class comes from a model folder's Python files."""
    return kind.__module__.startswith(f"{_PACKAGE}.")


def loaded_code() -> dict[str, str]:
    """The text of the Python files of all model folders that this process has opened with their code.

    Returns:
        The files by their path in transformers' cache of modules; empty if no such code was loaded.
    """
    cache = _cache()
    names = [name for name in sys.modules if name.split(".")[0] == _PACKAGE]
    files = {Path(file) for name in names if (file := sys.modules[name].__file__) is not None}
    # The whole folder: a module may import another one later, within a function.
    texts = {path for file in files if file.is_relative_to(cache) for path in file.parent.glob("*.py")}
    return {path.relative_to(cache).as_posix(): path.read_text("utf-8") for path in sorted(texts)}


def install_code(files: Mapping[str, str]) -> None:
    """Makes another process's :func:`loaded_code` importable in this one.

    Args:
        files: The files by their path in the cache. Those that are there already are left as they are.

    Raises:
        ValueError: If a path leads out of the cache.
    """
    if not files:
        return
    dynamic_module_utils.init_hf_modules()  # puts the cache on the path of imports
    cache = _cache()
    for name, text in files.items():
        path = (cache / name).resolve()
        if not path.is_relative_to(cache):
            raise ValueError(f"The path {name!r} leads out of {cache}, transformers' cache of modules.")
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Several processes of a node may write the same file, and one may import it meanwhile.
            write_whole(path, text)
    importlib.invalidate_caches()


def keep_code(part: PreTrainedModel | PreTrainedConfig | PreTrainedTokenizerBase) -> None:
    """Makes ``part.save_pretrained`` copy the Python files of its class, if they came from a model folder.

    transformers does so in the process that opened the folder; another one has only imported the class.
    """
    if is_remote(type(part)):
        type(part).register_for_auto_class()


def _cache() -> Path:
    return Path(dynamic_module_utils.HF_MODULES_CACHE).resolve()
