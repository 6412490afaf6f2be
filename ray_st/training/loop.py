"""The training loop of one worker: transformers' Trainer over planned batches, for embedding models and their losses."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalLoopOutput

from ray_st.data.feed import Feed
from ray_st.training import collectives
from ray_st.training.batch import DATASET_NAME, SHARES, Collate, Inputs, collect, step_loader
from ray_st.training.checkpoint import PREFIX
from ray_st.training.dealt import DealtModel
from ray_st.training.place import Place
from ray_st.training.step import Step, losses_of, owned_by_loss

LOSS_WEIGHTS = "loss.safetensors"
ARGUMENTS = "training_args.json"


class TrainingLoop(Trainer):
    """Runs in a worker, at a :class:`ray_st.training.place.Place`; needs torch and transformers, no Ray.

    Attributes:
        loss: The loss, or one for each dataset.
        evaluator: Called at each evaluation, or None.
        place: The worker's surroundings; None on the driver.
    """

    loss: nn.Module | Mapping[str, nn.Module]
    evaluator: Callable[..., Any] | None
    user_collator: Callable[[list[dict[str, Any]]], Inputs] | None
    place: Place | None = None

    # ---- batches ----

    def _surroundings(self) -> Place:
        assert self.place is not None, "the loop runs in a worker"
        return self.place

    def get_train_dataloader(self) -> DataLoader[Inputs]:
        """This rank's share of every global batch of the training data."""
        feed = self._surroundings().train
        if feed is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        return self._loader(feed)

    def get_eval_dataloader(self, eval_dataset: str | None = None) -> DataLoader[Inputs]:
        """This rank's share of every global batch of an evaluation dataset.

        Args:
            eval_dataset: Its name, where there are several.
        """
        evals = self._surroundings().evals
        name = eval_dataset or ""
        if name not in evals:
            raise ValueError(f"There is no evaluation dataset {name!r}; there are {sorted(evals)}.")
        return self._loader(evals[name])

    def _loader(self, feed: Feed) -> DataLoader[Inputs]:
        place = self._surroundings()
        encoder = self.model.token_encoder()
        collate = Collate(
            tokenize=self.model.tokenize,
            pad=None if encoder is None else encoder.pad,
            prompt_lengths=place.prompt_lengths,
            collator=self.user_collator,
        )
        pin = self.args.dataloader_pin_memory and self.args.device.type == "cuda"
        return step_loader(feed, place.world, collate, pin)

    def collect_features(self, inputs: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Tensor | None]:
        """Turns the inputs of a step into what a loss takes.

        Args:
            inputs: ``COLUMN_input_ids``, ``COLUMN_attention_mask``, …, and ``label``.

        Returns:
            One feature dictionary for each text column, and the labels or None.
        """
        return collect(inputs)

    # ---- loss and gradient ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the loss of a step on this rank's rows.

        Args:
            model: The model. The loss holds it already, so it is not used here.
            inputs: The inputs of the step; ``dataset_name`` chooses the loss where there is one for each dataset.
            return_outputs: Whether to return ``(loss, {})``.
            num_items_in_batch: Not used; part of transformers' interface.
        """
        name = inputs.get(DATASET_NAME)
        features, labels = self.collect_features(inputs)
        loss_fn = self.loss[name] if isinstance(self.loss, Mapping) else self.loss
        loss = loss_fn(features, labels)
        return (loss, {}) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one batch.

        The loss is computed inside the wrapped module's forward, so that gradients are reduced whatever a subclass
        does in ``compute_loss``. Ranks with unequal shares of a batch weigh their loss by rows: the mean over ranks,
        which is what the reduction takes, is then the loss of the global batch.

        Returns:
            The weighted loss, a scalar without gradient.
        """
        model.train()
        shares = inputs.pop(SHARES)
        self._gather.share(shares)
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = model(
                lambda: self.compute_loss(self.model, inputs, num_items_in_batch=num_items_in_batch)
            )
        loss = loss * self._row_weight(shares) / self.current_gradient_accumulation_steps
        self.accelerator.backward(loss)
        return loss.detach()

    def _row_weight(self, shares: list[int]) -> float:
        world = self._surroundings().world
        return shares[world.rank] * world.size / sum(shares)

    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: DataLoader[Inputs] | None = None
    ) -> nn.Module:
        """Wraps model and losses as one module; transformers' hook for distributed training."""
        if not training:
            return self.model
        self._bind_losses()
        # Mixed precision belongs to the model's forward alone: a loss's similarities are computed as the model
        # gives them.
        self.accelerator.prepare_model(self.model, evaluation_mode=True)
        return collectives.reduce_gradients(Step(self.model, self.loss), self.args)

    def _bind_losses(self) -> None:
        self._gather = collectives.ClusterGather()
        for loss in losses_of(self.loss).values():
            loss.to(self.args.device)
            for part in loss.modules():
                bind = getattr(part, "bind", None)
                if bind is not None:
                    bind(self._gather)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Sets up the optimizer over the model's and the losses' parameters."""
        return super().create_optimizer(Step(self.model, self.loss) if model is None else model)

    # ---- evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader[Inputs],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss over an evaluation dataset, then the evaluator, both shared by all ranks."""
        metrics: dict[str, float] = {}
        rows = 0
        if dataloader is not None:
            rows = self._surroundings_rows(dataloader)
            metrics[f"{metric_key_prefix}_loss"] = self._evaluation_loss(dataloader)
        if self.evaluator is not None and self._is_first_of_several(metric_key_prefix):
            metrics.update(self._evaluator_metrics(metric_key_prefix))
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=rows)

    @staticmethod
    def _surroundings_rows(dataloader: DataLoader[Inputs]) -> int:
        return len(dataloader.dataset)  # type: ignore[arg-type]

    def _is_first_of_several(self, prefix: str) -> bool:
        """The evaluator runs once an evaluation, with the first of several datasets."""
        names = list(self._surroundings().evals)
        return len(names) < 2 or prefix == f"eval_{names[0]}"

    @torch.no_grad()
    def _evaluation_loss(self, dataloader: DataLoader[Inputs]) -> float:
        """Mean loss over all batches, each weighted by its rows."""
        self._bind_losses()
        was_training = self.model.training
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for inputs in dataloader:
            shares = inputs.pop(SHARES)
            self._gather.share(shares)
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(self.model, inputs)
            rows = shares[self._surroundings().world.rank]
            totals += torch.tensor([float(loss) * rows if rows else 0.0, rows], device=totals.device)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.model.train(was_training)
        total, rows = collectives.sum_over_ranks(totals).tolist()
        return total / rows

    def _evaluator_metrics(self, prefix: str) -> dict[str, float]:
        assert self.evaluator is not None
        world = self._surroundings().world
        was_training = self.model.training
        self.model.eval()
        output_path = self._evaluator_folder() if world.is_first else None
        found = self.evaluator(
            DealtModel(self.model, world),
            output_path=output_path,
            epoch=self.state.epoch if self.state.epoch is not None else -1,
            steps=self.state.global_step,
        )
        self.model.train(was_training)
        metrics = found if isinstance(found, Mapping) else {"evaluator": found}
        return {
            key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": float(value)
            for key, value in metrics.items()
        }

    def _evaluator_folder(self) -> str:
        folder = Path(self.args.output_dir) / "eval"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates the loss on the evaluation datasets and runs the evaluator; every rank must call it.

        Returns:
            Figures by name: ``eval_loss`` (``eval_NAME_loss`` for named datasets), the evaluator's, and speed.
        """
        started = time.time()
        if self._surroundings().evals:
            return super().evaluate(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics = self._evaluator_metrics(prefix) if self.evaluator is not None else {}
        metrics[f"{prefix}_runtime"] = time.time() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes one checkpoint from the first rank, seals it, then tells Ray and deletes old ones."""
        place = self._surroundings()
        self.store_flos()
        step = self.state.global_step
        states = collectives.gather_objects(_random_states())
        if self.state.best_global_step:
            self.state.best_model_checkpoint = place.store.location(f"{PREFIX}{self.state.best_global_step}")
        found = None
        if place.world.is_first:
            folder = place.store.begin(step)
            self.save_model(str(folder), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                for rank, state in enumerate(states):
                    name = "rng_state.pth" if place.world.size == 1 else f"rng_state_{rank}.pth"
                    torch.save(state, folder / name)
            self._save_state(folder)
            found = place.store.seal(folder, **self._cursor())
        found = collectives.broadcast_object(found)
        place.report(self._newest_metrics(), found)
        if place.world.is_first:
            place.store.rotate(self.args.save_total_limit, self.state.best_global_step)

    def _cursor(self) -> dict[str, Any]:
        """Where in the data the run is; a check only, as the position follows from the global step."""
        return {"epoch": self.state.epoch, "seed": self.args.seed, "data_seed": self.args.data_seed}

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
            if isinstance(self.state.stateful_callbacks[name], list):
                self.state.stateful_callbacks[name].append(state)
            else:
                self.state.stateful_callbacks[name] = state
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves the model folder, the weights that losses own, and the arguments as JSON with tokens hidden."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(folder))
        owned = {name: tensor.detach().cpu().contiguous() for name, tensor in owned_by_loss(self.model, self.loss).items()}
        if owned:
            save_file(owned, str(folder / LOSS_WEIGHTS))
        arguments = {key: value for key, value in self.args.to_dict().items() if key != "output_dir"}
        (folder / ARGUMENTS).write_text(json.dumps(arguments, indent=1, default=str))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the model's and the losses' weights in place."""
        self.model.load_weights(resume_from_checkpoint)
        weights = Path(resume_from_checkpoint) / LOSS_WEIGHTS
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
        store = self._surroundings().store
        name = f"{PREFIX}{self.state.best_global_step}"
        store.check(name)
        self._load_from_checkpoint(str(store.fetch(name)))

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        positions = super()._init_training_state(*args, **kwargs)
        best = self.state.best_global_step
        if best and best in self._surroundings().store.steps():
            # transformers forgets a best checkpoint that is not a folder on this machine.
            self.state.best_model_checkpoint = self._surroundings().store.location(f"{PREFIX}{best}")
        return positions


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state()
    return states


def in_worker_directory(path: str) -> str:
    """An absolute path: workers run in another folder than the driver."""
    return os.path.abspath(path)
