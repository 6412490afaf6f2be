"""What a trial measures itself at each evaluation: the model's size, the memory it took, its speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from statistics import median
from typing import Any

import torch

from ray_st.study.constraints import ENCODE_MS, MODEL_MIB, PEAK_MEMORY_MIB
from ray_st.study.objective import ObjectiveError
from ray_st.training.distributed import collectives
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.util.peak_memory import PeakMemory

MIB = 2**20

TEXTS = (
    "A man is playing a guitar.",
    "How do I renew my passport?",
    "Two dogs run through shallow water while a child watches from the shore.",
    "The central bank left its interest rate unchanged, as most economists had expected after the last "
    "figures on prices and employment.",
    "To replace the filter, switch the machine off and let it cool for half an hour. Turn the cover to the "
    "left, pull out the old filter, and rinse the housing. Push in the new one until it clicks, close the "
    "cover, and run the machine twice without coffee.",
)
"""Fixed, so that figures of trials and searches with other data compare; 6 to 50 words."""
_QUERY = "what does the text say"
_WARM_UP, _ROUNDS = 2, 3
"""Fixed, too: ranks of a sharded model must encode as often as each other."""


class TrialMeasures:
    """Measures a trial from the moment it is made; every rank must make one, and call it together.

    Args:
        wanted: Names in :data:`ray_st.study.constraints.MEASURED`.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)
        self._peak = PeakMemory()

    def __call__(self, trainer: HfLoop) -> dict[str, float]:
        """The figures by name; of several workers the largest memory, and the first one's speed.

        Args:
            trainer: The trial's.

        Raises:
            ObjectiveError: If this machine cannot measure one of them.
        """
        found: dict[str, float] = {}
        if PEAK_MEMORY_MIB in self._wanted:  # before anything else is computed here
            found[PEAK_MEMORY_MIB] = collectives.largest_number(self._taken(trainer.args.device)) / MIB
        if MODEL_MIB in self._wanted:
            found[MODEL_MIB] = model_bytes(trainer.model, trainer.stored_types) / MIB
        if ENCODE_MS in self._wanted:
            with trainer.strategy.evaluating():
                mine = encode_ms(_one_text(trainer.model, trainer.family.takes_pairs))
            found[ENCODE_MS] = collectives.broadcast_object(mine)
        return found

    def _taken(self, device: torch.device) -> int:
        try:
            return self._peak.bytes_on(device)
        except OSError as error:
            raise ObjectiveError(
                f"{PEAK_MEMORY_MIB} cannot be measured here: without CUDA it is the peak of the process's "
                f"resident memory, which only Linux can reset between trials ({error}). Leave it out of "
                "constraints and objectives."
            ) from error


def model_bytes(model: torch.nn.Module, stored: dict[int, torch.dtype]) -> int:
    """Bytes of a model's weights and buffers in the types they are saved in; shared ones count once.

    Args:
        model: The model; its weights may be sharded.
        stored: The types of weights that are trained in another one, by the tensors' ``id``.
    """
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(
        tensor.numel() * stored.get(key, tensor.dtype).itemsize
        for key, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    )


# ---- speed ----


def _one_text(model: Any, takes_pairs: bool) -> Callable[[str], object]:
    """Encodes one text, or scores it with a query, as a user would."""
    if takes_pairs:
        return lambda text: model.predict([(_QUERY, text)], show_progress_bar=False)
    return lambda text: model.encode([text], show_progress_bar=False)


def encode_ms(encode: Callable[[str], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Median milliseconds of a call with one of :data:`TEXTS`, after a few that do not count.

    Args:
        encode: Encodes a text, and returns when the result is on the host.
        clock: Seconds.
    """
    for text in TEXTS[:_WARM_UP]:
        encode(text)
    taken = []
    for text in TEXTS * _ROUNDS:
        begin = clock()
        encode(text)
        taken.append(clock() - begin)
    return 1000 * median(taken)
