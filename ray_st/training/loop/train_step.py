"""One training batch: this rank's share, its weight, its loss, and errors that name rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ray_st.data.plan import Indices
from ray_st.training.argument_checks import ready_twice
from ray_st.training.data.step_loader import BATCH, DATASET_NAME, Inputs
from ray_st.training.distributed import collectives
from ray_st.training.loop.finite_check import Batch, LossError, StepCheck
from ray_st.training.loop.loss_so_far import LossParts
from ray_st.training.loop.row_weights import RowShares, RowWeights, is_sum
from ray_st.training.strategies.batch_size_finder import too_large
from ray_st.training.strategies.step_module import LossOrLosses, check_reached, losses_of
from ray_st.training.strategies.strategy import Strategy
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.world import World

Features = list[dict[str, Any]]


@dataclass(frozen=True)
class LossMethods:
    """The trainer's methods that compute a step's loss; calling these makes users' overrides take effect.

    Args:
        prepare: Moves inputs to the device.
        autocast: Opens the context in which losses are computed.
        compute_loss: ``(model, inputs, num_items_in_batch=…)``, the documented method.
        collect_features: Returns features and labels, the documented method.
    """

    prepare: Callable[[dict[str, Any]], dict[str, Any]]
    autocast: Callable[[], AbstractContextManager[Any]]
    compute_loss: Callable[..., Any]
    collect_features: Callable[[Mapping[str, Any]], tuple[Features, Tensor | None]]


@dataclass(frozen=True)
class Share:
    """This rank's part of a batch.

    Args:
        batch: The batch, as errors name it.
        weight: Weight of this rank's loss; see :class:`ray_st.training.loop.row_weights.RowWeights`.
    """

    batch: Batch
    weight: float


class TrainStep:
    """Computes the losses of training steps, batch by batch.

    The loss is computed inside the wrapped module's forward, so that gradients are reduced whatever a
    subclass does in ``compute_loss``. Losses of unequal batches, and of unequal shares of a batch, are
    weighted by rows: the mean over ranks, as taken by the reduction, is then the loss of the global batch,
    and the mean over a step's batches is the loss over all of its rows.

    Args:
        model: The model.
        loss: The loss, or one for each dataset.
        args: Training arguments.
        world: This rank and the number of ranks.
        shares: Extracts each rank's row count from a batch.
        strategy: How model and losses are wrapped.
        methods: The trainer's methods.

    Attributes:
        shares: Row counts of the ranks in the current batch.
        parts: Means of the named parts of losses, since the last log.
        used: Row numbers of the global batches since the last step ended.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossOrLosses,
        args: SentenceTransformerTrainingArguments,
        world: World,
        shares: RowShares,
        strategy: Strategy,
        methods: LossMethods,
    ) -> None:
        self._model, self._loss, self._args = model, loss, args
        self._strategy, self._methods = strategy, methods
        self.shares = shares
        self.parts = LossParts()
        self.used: list[Indices] = []
        self._check, self._weights = StepCheck(world), RowWeights(world)
        self._sums = {name for name, each in losses_of(loss).items() if is_sum(each)}
        self._weight: float | None = None  # of the batch whose loss is being computed
        self._is_first_step = True

    def begin(self, batches: Sequence[Inputs]) -> None:
        """Counts the rows of the batches of a step; every rank must call it."""
        self._weights.begin(batches)

    def take(self, inputs: dict[str, Any]) -> Share:
        """Removes everything that is not a model input from a batch."""
        dataset = dataset_of(inputs)
        batch = Batch(inputs.pop(BATCH, None), dataset)
        if batch.rows is not None:
            self.used.append(batch.rows)
        single = "" if isinstance(self._loss, nn.Module) else dataset
        return Share(batch, self._weights.of(self.shares.take(inputs), single in self._sums))

    def forward(
        self,
        wrapped: nn.Module,
        inputs: dict[str, Any],
        share: Share,
        step: int,
        num_items: Tensor | int | None,
    ) -> Tensor:
        """The loss of this rank's rows, without its weight.

        Args:
            wrapped: Model and losses, wrapped.
            inputs: The batch's inputs, on the device.
            share: This rank's share of the same batch.
            step: Number of the step, from 1.
            num_items: Part of transformers' interface.

        Raises:
            LossError: If the loss rejects its inputs, or is not finite and the optimizer steps in the
                backward pass.
            BatchTooLarge: If memory runs out during a batch size search.
        """
        self._weight = share.weight
        try:
            with self._methods.autocast():
                loss: Tensor = wrapped(lambda: self._whole_loss(inputs, num_items))
        except ValueError as error:
            raise LossError(f"{error} ({self._check.at(step, share.batch)})") from error
        except RuntimeError as error:
            raise (too_large(error, self._args) or error) from error
        finally:
            self._weight = None
        self._check.add(loss, share.batch)
        if not self._strategy.keeps_gradient:
            self._check.check(0.0, step)
        return loss

    def _whole_loss(self, inputs: dict[str, Any], num_items: Tensor | int | None) -> Tensor:
        loss: Tensor = self._methods.compute_loss(self._model, inputs, num_items_in_batch=num_items)
        # With a loss for each dataset, a step uses the weights of one. The reducer waits for all: an
        # empty slice gives the others a gradient of zero.
        for weight in self._strategy.trained_by_loss():
            loss = loss + weight.reshape(-1)[:0].sum()
        return loss

    def count_parts(self, value: Mapping[str, Tensor]) -> None:
        """Counts the parts of a training loss; those of evaluations are ignored."""
        if self._weight is not None:
            self.parts.add(value, self._weight)

    @contextmanager
    def backward_errors(self) -> Iterator[None]:
        """Converts backward errors with a known cause into errors that name the remedy."""
        try:
            yield
        except RuntimeError as error:
            raise (too_large(error, self._args) or ready_twice(error, self._args) or error) from error

    def check_gradients(self, wrapped: nn.Module, step: int) -> None:
        """Raises if gradients are missing after the reduction."""
        collectives.check_reduced(wrapped, step)
        if self._is_first_step and isinstance(self._loss, nn.Module) and self._strategy.keeps_gradient:
            check_reached(self._model, self._loss)
        self._is_first_step = False

    def check_before_optimizer(
        self, norm: Tensor | float, step: int, skips_overflow: Callable[[], bool]
    ) -> Tensor | float:
        """Checks a step before the optimizer updates the weights; every rank must call it.

        Args:
            norm: Norm of the gradient, the same on every rank.
            step: Number of the step.
            skips_overflow: Whether the optimizer skips a step whose gradient overflows.

        Returns:
            The same norm, as a number if the host knows it now.

        Raises:
            LossError: If a loss or the gradient is not finite.
        """
        if not self._strategy.keeps_gradient:
            # The weights are already updated: check them instead, so that no checkpoint contains bad ones.
            self._check.check(nn.utils.get_total_norm(list(self._model.parameters())), step, skips_overflow)
            return norm
        return self._check.check(norm, step, skips_overflow)


def dataset_of(inputs: Mapping[str, Any]) -> str:
    """Name of the batch's dataset; empty for a single one."""
    return str(inputs.get(DATASET_NAME, ""))
