"""The training loop of one worker: steps, evaluations, and checkpoints that can be trusted."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import safe_globals

from ray_st.training.async_eval.client import AWAITED, AwaitingTrainer
from ray_st.training.callbacks.hub_upload import HubTrainer
from ray_st.training.checkpoint.store import MANIFEST, PREFIX, SavedCheckpoint
from ray_st.training.distributed import collectives
from ray_st.training.loop import loss_so_far
from ray_st.training.loop.loss_so_far import LOSS_SO_FAR
from ray_st.training.strategies.precision import StoredTypes, widen
from ray_st.training.strategies.step_module import describe_weights, owned_by_loss
from ray_st.util.events import notes
from ray_st.util.secrets import with_secrets, without_secrets
from ray_st.util.uploads import upload_of

LOSS_WEIGHTS = "loss.safetensors"
ARGUMENTS = "training_args.json"
RANDOM_STATE = "rng_state_{rank}.pth"


class TrainingLoop(HubTrainer, AwaitingTrainer):
    """The whole loop of a worker.

    Attributes:
        default_callbacks: Those that transformers adds by itself.
        travelled: The user's callbacks, as they came from the driver.
        brought: Names of the attributes of a subclass that came from there.
    """

    default_callbacks: Sequence[TrainerCallback] = ()
    travelled: tuple[TrainerCallback, ...] = ()
    brought: tuple[str, ...] = ()
    _managed: frozenset[str] = frozenset()
    _resumed: str | None = None
    _types: StoredTypes | None = None
    _keeps_types = False
    _losses_then: Mapping[str, Any] = MappingProxyType({})
    _losses_at_end: Mapping[str, Any] = MappingProxyType({})
    _counts_on = False

    def own_callbacks(self) -> list[TrainerCallback]:
        """The callbacks that the user gave or added."""
        defaults = set(map(id, self.default_callbacks))
        return [callback for callback in self.callback_handler.callbacks if id(callback) not in defaults]

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Runs the loop; see the trainer's method of this name.

        Raises:
            ValueError: If it is to go on from a checkpoint with DeepSpeed.
        """
        if resume_from_checkpoint is not None and self.is_deepspeed_enabled:
            raise ValueError(
                f"A run with deepspeed cannot go on from {resume_from_checkpoint}, which holds no state of its optimizer. "
                "Start anew with the checkpoint as the model."
            )
        self.neftune_noise_alpha = (
            None  # the noise is ours to add: transformers asks the model for embeddings
        )
        self.restore_types()
        self._types = widen(self.model, self.loss)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.is_in_train = False
            if self._noise is not None:
                self._noise.remove()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._used and self.here.ledger is not None:
            self.here.ledger.write(self.state.global_step, self._used)
        self._used.clear()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes one checkpoint from the first rank, seals it, then tells Ray and deletes old ones.

        A checkpoint that cannot be written is given up: training goes on, with the earlier ones as they are.
        """
        place = self.here
        self.store_flos()
        step = self.state.global_step
        states = collectives.gather_objects(_random_states())
        losses = self._losses_at_end or loss_so_far.gather(self)
        best = self.state.best_model_checkpoint
        self.name_best(step)
        with self.whole_weights(), self.whole_state():
            found = collectives.broadcast_object(
                self._write(step, states, losses) if place.world.is_first else None
            )
        if found is None:
            self.state.best_model_checkpoint = best
            return
        self._saved = step
        self.keep_promised()
        place.report(self._newest_metrics(), found)
        if place.world.is_first:
            self.push_checkpoint(found)
        self._rotate()

    def save_last(self) -> None:
        """Writes a checkpoint of the end of training, unless there is one, or the best one was loaded."""
        if self._saved < 0 or not (self.args.load_best_model_at_end or self._saved == self.state.global_step):
            self._save_checkpoint(self.model_wrapped, None)

    def save_now(self) -> None:
        """Writes a checkpoint of this step, unless there is one."""
        if self._saved != self.state.global_step:
            self._save_checkpoint(self.model_wrapped, None)

    def _write(self, step: int, states: list[Any], losses: Mapping[str, Any]) -> SavedCheckpoint | None:
        store = self.here.store
        try:
            folder = store.begin(step)
            self._fill(folder, states)
            return store.seal(folder, **self._cursor(), **{LOSS_SO_FAR: losses})
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's writer
                raise
            store.give_up(step)  # first: it may make the room in which the warning can be written
            notes.warning(
                f"warning: the checkpoint of step {step} could not be written to {store.path} and is given up; training "
                f"goes on. Is the disk full? {type(error).__name__}: {error}"
            )
            return None

    def restore_types(self) -> None:
        """Gives weights the types that they had before training; :meth:`train` leaves them as they were trained."""
        if self._types is not None:
            self._types.restore()

    def _fill(self, folder: Path, states: list[Any]) -> None:
        self._keeps_types = True
        try:
            self.save_model(str(folder), _internal_call=True)
        finally:
            self._keeps_types = False
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            for rank, state in enumerate(states):
                torch.save(state, folder / RANDOM_STATE.format(rank=rank))
        self._save_state(folder)

    def _rotate(self) -> None:
        if self.here.world.is_first:
            best = self._best_name()
            step = int(best.removeprefix(PREFIX)) if best else None
            in_use = {*self._awaited, *self.pushing()}
            self.here.store.rotate(self.args.save_total_limit, step, in_use=in_use)

    def _best_name(self) -> str:
        return Path(self.state.best_model_checkpoint or "").name

    def _cursor(self) -> dict[str, Any]:
        """Where in the data the run is, and of what model, checks only, as files say it too; and what it waits for."""
        facts = {"model": describe_weights(self.model), "data": dict(self.here.facts)}
        return {"epoch": self.state.epoch, **facts, AWAITED: self._awaited}

    def _newest_metrics(self) -> dict[str, Any]:
        newest: dict[str, Any] = {"step": self.state.global_step, "epoch": self.state.epoch}
        for entry in self.state.log_history[-2:]:
            newest.update(entry)
        return newest

    def _save_state(self, folder: Path) -> None:
        for callback in [*self.callback_handler.callbacks, self.control]:
            if not isinstance(callback, ExportableState):
                continue
            name, state = type(callback).__name__, callback.state()
            states: Any = self.state.stateful_callbacks
            if isinstance(states[name], list):
                states[name].append(state)
            else:
                states[name] = state
        self._state_without_secrets().save_to_json(str(folder / TRAINER_STATE_NAME))

    def save_state(self) -> None:
        """Writes the trainer's state into ``args.output_dir``, secrets of callbacks left out; the first rank does."""
        if self.is_world_process_zero():
            self._state_without_secrets().save_to_json(
                str(Path(str(self.args.output_dir)) / TRAINER_STATE_NAME)
            )

    def _state_without_secrets(self) -> TrainerState:
        shown = copy(self.state)
        shown.stateful_callbacks = without_secrets(self.state.stateful_callbacks)
        shown.trial_params = without_secrets(self.state.trial_params)
        return shown

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model folder; the first rank does, and every rank must call it.

        Args:
            output_dir: The folder; ``args.output_dir`` by default.
            _internal_call: Part of transformers' interface.
        """
        upload = upload_of(output_dir or str(self.args.output_dir)) if self.place is None else None
        if upload is not None:
            notes.warning(
                f"warning: the model is saved in {upload}, the folder that Ray made of the job's working_dir, and Ray "
                "deletes it some time after the job"
            )
        with self.whole_weights():
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves the model folder, the weights that losses own, and the arguments as JSON; the first rank does.

        In the types that the weights are stored in, but for checkpoints: these hold them as they are trained.
        """
        if not self.is_world_process_zero():
            return
        types = None if self._keeps_types else self._types
        with nullcontext() if types is None else types.for_a_while():
            self._save_all(output_dir)

    def _save_all(self, output_dir: str | None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(folder))
        owned = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in owned_by_loss(self.model, self.loss).items()
        }
        if owned:
            save_file(owned, str(folder / LOSS_WEIGHTS))
        arguments = {key: value for key, value in self.args.to_dict().items() if key != "output_dir"}
        (folder / ARGUMENTS).write_text(json.dumps(arguments, indent=1, default=str))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the model's and the losses' weights in place."""
        self.model.load_weights(resume_from_checkpoint)
        self._load_loss_weights(resume_from_checkpoint)

    def take_weights(self, folder: str) -> None:
        """Takes over a model folder's weights, and those of losses if they lie there: a new run begins with them.

        Args:
            folder: A checkpoint, of any program that writes this format, or another model folder.
        """
        self.model.load_weights(folder)
        owned = owned_by_loss(self.model, self.loss)
        if (Path(folder) / LOSS_WEIGHTS).exists():
            self._load_loss_weights(folder)
        elif owned and self.here.world.is_first:
            notes.info(f"{folder} has no {LOSS_WEIGHTS}: the loss's weights {sorted(owned)} are new")

    def _load_loss_weights(self, checkpoint: str) -> None:
        weights = Path(checkpoint) / LOSS_WEIGHTS
        saved = load_file(str(weights)) if weights.exists() else {}
        owned = owned_by_loss(self.model, self.loss)
        if set(saved) != set(owned):
            raise ValueError(
                f"{weights}: expected the loss weights {sorted(owned)}, found {sorted(saved)}. "
                "Resume with the loss that the checkpoint was made with."
            )
        with torch.no_grad():
            for name, tensor in owned.items():
                tensor.copy_(saved[name])

    def _load_best_model(self) -> None:
        """Loads the weights of the best checkpoint, from wherever the run keeps its checkpoints."""
        store = self.here.store
        name = self._best_name()
        store.check(name)
        self._load_from_checkpoint(str(store.fetch(name)))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restores this rank's random states; a rank that the checkpoint does not know keeps its own."""
        if checkpoint is None:
            return
        file = Path(checkpoint) / RANDOM_STATE.format(rank=self.here.world.rank)
        if file.is_file():
            with safe_globals():
                _restore_random_states(torch.load(file, weights_only=True))

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, checkpoint: str | None, trial: Any
    ) -> Any:
        self._resumed, self._counts_on = checkpoint, False
        self._losses_then, self._losses_at_end = self._manifest().get(LOSS_SO_FAR, {}), {}
        positions = super()._init_training_state(max_steps, steps_per_epoch, epochs, checkpoint, trial)
        self.start_awaiting(checkpoint)
        if self.here.ledger is not None:
            self.here.ledger.rewind(self.state.global_step)
        best = self.state.best_global_step
        if best and best in self.here.store.steps():
            # transformers forgets a best checkpoint that is not a folder on this machine.
            self.state.best_model_checkpoint = self.here.store.location(f"{PREFIX}{best}")
        return positions

    def _load_callback_state(self) -> None:
        """Restores the states that callbacks exported, each into the callback that it is of.

        Where the run was restarted they always are; where a user resumes, as
        ``restore_callback_states_from_checkpoint`` says.
        """
        if not (self.args.restore_callback_states_from_checkpoint or self._was_restarted()):
            return
        here = [*self.callback_handler.callbacks, self.control]
        stored: Any = self.state.stateful_callbacks
        for name, saved in stored.items():
            states = saved if isinstance(saved, list) else [saved]
            same = [callback for callback in here if type(callback).__name__ == name]
            for callback, written in zip(same, states, strict=False):
                live = callback.state() if isinstance(callback, ExportableState) else {}
                state = with_secrets(written, live)
                fresh = type(callback)(**state.get("args", {}))
                callback.__dict__.update({**fresh.__dict__, **state.get("attributes", {})})

    def _was_restarted(self) -> bool:
        return self._manifest().get("run_id") == self.here.store.run_id

    def _manifest(self) -> dict[str, Any]:
        """What the manifest says of the checkpoint that the run goes on from; empty without one."""
        file = Path(self._resumed or "") / MANIFEST
        return dict(json.loads(file.read_text())) if self._resumed is not None and file.is_file() else {}

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """An epoch, or what a resumed run has left of it; nothing of one whose last step has been."""
        self._count_on()
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _count_on(self) -> None:
        """Counts losses on from the checkpoint, the first time; one of an earlier version does not know them."""
        noted, self._losses_then = self._losses_then, {}
        if noted:
            self._counts_on = True
            loss_so_far.restore(self, noted)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Waits for evaluations beside training before the best model is chosen."""
        self._count_on()
        self._losses_at_end = loss_so_far.gather(self)
        if self._counts_on:
            loss_so_far.spread_over_all_steps(self)
        step, steps = self.state.global_step, self.state.max_steps
        if self._resumed is not None and step == self._initial_global_step and self.here.world.is_first:
            notes.info(f"nothing to do: {self._resumed} is of step {step} of {steps}")
        if self.here.desk is not None:
            self.await_all()
            self._rotate()
        self.end_sharding()
        return super()._finalize_training(*args, **kwargs)


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state_all()
    return states


def _restore_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002  the global state is what libraries draw from
    torch.random.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.random.set_rng_state_all(states["cuda"])
