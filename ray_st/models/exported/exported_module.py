"""The module that computes with an exported file, in the place of an encoder or a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ray_st.models.exported.backend_files import BackendFile
from ray_st.models.exported.backend_options import BackendOptions
from ray_st.models.exported.processor import check_processor
from ray_st.models.exported.sessions import open_session
from ray_st.models.folder_files import ModelFolderError

ENCODER, CLASSIFIER = "last_hidden_state", "logits"
"""What an encoder and a classifier are asked for."""

_NAMES = {ENCODER: (ENCODER, "token_embeddings"), CLASSIFIER: (CLASSIFIER,)}
_MASK, _IDS = "attention_mask", "input_ids"
_MADE = ("token_type_ids", "position_ids")


class ExportedModule(nn.Module):
    """Computes what an encoder or classifier of transformers does, from a file that was exported from it.

    It has no parameters and cannot be trained. Sent to another process it takes the file's bytes along, which
    processes of one node share.

    Args:
        config: The configuration of the model that was exported.
        output: :data:`ENCODER` or :data:`CLASSIFIER`.
        file: The file.
        options: What the user asks for.
        position_limit: Number of positions that the model has learned; None if it encodes them otherwise.

    Raises:
        ImportError: If the backend is not installed.
        ModelFolderError: If the file cannot be opened, is of another kind of model, or is quantized for
            another processor.
        ValueError: If the provider is not there.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        output: str,
        file: BackendFile,
        options: BackendOptions,
        position_limit: int | None = None,
    ) -> None:
        super().__init__()
        check_processor(file.name)
        self.config, self.file, self.options = config, file, replace(options, export=None)
        self.position_limit = position_limit
        self._output = output
        self._open()

    def _open(self) -> None:
        self._session = open_session(self.file, self.options)
        self._taken = _named(self._session.outputs, _NAMES[self._output], "makes", self.file.name)
        odd = sorted(set(self._session.inputs) - {_IDS, _MASK, *_MADE})
        if odd or _IDS not in self._session.inputs:
            raise ModelFolderError(
                f"{self.file.name} takes {', '.join(self._session.inputs)}; expected {_IDS}, {_MASK} and "
                f"at most {' and '.join(_MADE)}. Was another kind of model exported?"
            )

    @property
    def backend(self) -> str:
        """The backend: "onnx" or "openvino"."""
        return self.options.backend

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the CPU."""
        return self._session.on_cpu

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The output, as an attribute named as in transformers, on the device of the input.

        Args:
            input_ids: Token ids (n, t).
            attention_mask: 0 at padding (n, t); by default there is none.
            token_type_ids: Types (n, t); by default 0.
            position_ids: Positions (n, t); by default they count the tokens.
            return_dict: Has no effect; transformers' models take it.
        """
        types = {"token_type_ids": token_type_ids, "position_ids": position_ids}
        arrays = self.arrays({_IDS: input_ids, _MASK: attention_mask, **types})
        found = torch.from_numpy(self._session.run(arrays, self._taken))
        return SimpleNamespace(**{self._output: found.to(input_ids.device)})

    def arrays(self, features: Mapping[str, Tensor | None]) -> dict[str, np.ndarray]:
        """What the file takes, by name.

        Args:
            features: Those of a batch; what is missing or None has its default.
        """
        ids, mask = features[_IDS], features.get(_MASK)
        assert ids is not None
        known = torch.ones_like(ids) if mask is None else mask
        given = {**features, _MASK: known}
        return {name: _array(name, given.get(name), known) for name in self._session.inputs}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes configuration and file into a model's folder, the latter into a folder for its backend."""
        self.config.save_pretrained(folder)
        self.file.write(Path(folder))

    def get_extra_state(self) -> Tensor:
        """A digest of the file, so that two models with different files have different states."""
        return torch.tensor(list(bytes.fromhex(self.file.digest())), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Rejects the state of another file: there are no weights to load.

        Raises:
            RuntimeError: If it is another one.
        """
        if not torch.equal(state, self.get_extra_state()):
            raise RuntimeError(
                f"{self.file.name} was exported; open the other model instead of loading its weights"
            )

    def __getstate__(self) -> dict[str, Any]:
        """The state without the opened file, which is opened again elsewhere.

        Raises:
            ValueError: If there are options that cannot be sent.
        """
        if self.options.session_options is not None:
            raise ValueError(
                "A model with session_options cannot be sent to another process or copied: ONNX Runtime "
                "cannot pickle them. Leave them out; each process then uses its share of the cores."
            )
        return {**vars(self), "_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a module that another process may have sent."""
        super().__setstate__(state)
        self._open()

    def __repr__(self) -> str:
        """What ``print(model)`` shows."""
        return f"ExportedModule({self.backend}, {self.file.name})"


def _named(there: tuple[str, ...], wanted: tuple[str, ...], verb: str, file: str) -> str:
    for name in wanted:
        if name in there:
            return name
    raise ModelFolderError(
        f"{file} {verb} {', '.join(there) or 'nothing'}; expected {' or '.join(wanted)}. Was another kind of "
        "model exported?"
    )


def _array(name: str, given: Tensor | None, mask: Tensor) -> np.ndarray:
    if given is None:
        counted = (mask.cumsum(1) - 1).clamp_min(0) if name == "position_ids" else torch.zeros_like(mask)
        return _array(name, counted, mask)
    return given.detach().to("cpu", torch.int64).contiguous().numpy()


def exported_parts(model: nn.Module) -> list[ExportedModule]:
    """The exported modules within a model."""
    return [part for part in model.modules() if isinstance(part, ExportedModule)]


def check_used(model: nn.Module, backend: str) -> None:
    """Rejects a backend that no module of a model computes with.

    Raises:
        ValueError: Naming the modules.
    """
    if backend != "torch" and not exported_parts(model):
        kinds = ", ".join(type(part).__name__ for part in model.children())
        raise ValueError(
            f"backend={backend!r} computes encoders of transformers in the format of a folder; this model "
            f"has the modules {kinds}. Leave backend out."
        )
