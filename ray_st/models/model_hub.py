"""Finding a model's folder: on this disk, or in the Hub's cache, downloaded if necessary."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from ray_st.models.folder_files import ModelFolderError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HOME_ORGANISATION = "sentence-transformers"  # where a name without an organisation is looked for first
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]
_BACKENDS = {"onnx": ["*.onnx", "*.onnx_data", "*.onnx.data"], "openvino": ["openvino*.xml", "openvino*.bin"]}
_FOLDERS = ("onnx", "openvino", "coreml")


def find_folder(
    name: str | Path,
    *,
    cache_folder: str | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
    organisation: str = _HOME_ORGANISATION,
    backend: str = "torch",
) -> Path:
    """The folder of a model. Only configuration, tokenizer files and safetensors are downloaded.

    For another backend than torch its files are, too.

    Args:
        name: A folder, or a name on the Hub: ``organization/model``, or ``model`` alone, which is looked up
            among the models of ``organisation`` first.
        cache_folder: Where downloaded models are stored; by default the environment's
            SENTENCE_TRANSFORMERS_HOME, or else the Hub's own cache.
        revision: Branch, tag or commit on the Hub.
        token: For private models.
        local_files_only: Never ask the Hub.
        trust_remote_code: Also download the model's Python files.
        organisation: Where names without an organization are looked up first.
        backend: "torch", "onnx" or "openvino".

    Raises:
        ModelFolderError: If there is no such folder and the Hub, or its cache when offline, has no such
            model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _HUB_NAME.fullmatch(str(name)):
        found = "is a file" if path.exists() else "does not exist"
        raise ModelFolderError(f"A model is a folder or a name on the Hub; {str(name)!r} {found}.")
    reasons = []
    for candidate in [f"{organisation}/{name}"] * ("/" not in str(name)) + [str(name)]:
        try:
            return Path(
                snapshot_download(
                    candidate,
                    cache_dir=cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
                    revision=revision,
                    token=token,
                    local_files_only=local_files_only,
                    allow_patterns=[
                        *_WANTED,
                        *(["*.py"] if trust_remote_code else []),
                        *_BACKENDS.get(backend, ()),
                    ],
                    ignore_patterns=[f"{name}/*" for name in _FOLDERS if name != backend],
                )
            )
        except (OSError, HfHubHTTPError) as error:
            reasons.append((candidate, error))
    raise ModelFolderError(_not_found(str(name), cache_folder, local_files_only, reasons)) from reasons[-1][1]


def source_of(folder: Path) -> tuple[str, str] | None:
    """Name and commit on the Hub of a folder in its cache (``models--organization--name/snapshots/commit``).

    None for any other folder: a local path does not tell where a model came from.
    """
    place = folder.absolute().parts[-3:]
    if len(place) < 3 or place[1] != "snapshots" or not place[0].startswith("models--"):
        return None
    return place[0].removeprefix("models--").replace("--", "/"), place[2]


def _not_found(
    name: str, cache_folder: str | None, local_files_only: bool, reasons: Sequence[tuple[str, Exception]]
) -> str:
    cache = cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME") or constants.HF_HUB_CACHE
    here = f"No model {name!r}: there is no such folder in {Path.cwd()}"
    if local_files_only or constants.HF_HUB_OFFLINE:
        why = "local_files_only is set" if local_files_only else "HF_HUB_OFFLINE is set"
        names = " or ".join(candidate for candidate, _ in reasons)
        return f"{here}, and {cache} holds no {names}. The Hub was not asked because {why}."
    answers = "; ".join(f"{candidate}: {str(error).splitlines()[0]}" for candidate, error in reasons)
    return f"{here}, and the Hub has none that can be read ({answers})."
