"""Methods that trainers of earlier releases called and that subclasses may still define."""

from __future__ import annotations

import warnings

RETIRED = {
    "_train_parts": "ray_st.training.data.run_data.RunData.train_specs",
    "_eval_parts": "ray_st.training.data.run_data.RunData.eval_specs",
    "_train_part": "ray_st.training.data.run_data.RunData",
    "_part": "ray_st.training.data.run_data.RunData",
    "_maker": "trainer.batch_orders, or the documented get_batch_sampler",
    "_mix": "the documented get_multi_dataset_batch_sampler",
    "_shell": "ray_st.training.data.sampler_factory.SamplerMethods",
    "_extras": "ModelTrainer.own_attributes",
    "_loader": "HfLoop.loader",
    "_whole_loss": "ray_st.training.loop.train_step.TrainStep",
    "_take_shares": "ray_st.training.loop.row_weights.RowShares",
    "_look_at_gradients": "ray_st.training.loop.train_step.TrainStep.check_gradients",
    "bind_losses": "ray_st.training.loop.row_weights.RowShares",
    "wrapped": "ray_st.training.strategies.strategy.Strategy.wrap",
    "whole_weights": "trainer.strategy.whole_weights",
    "whole_state": "trainer.strategy.copy_optimizer",
    "end_sharding": "trainer.strategy.end",
    "_evaluated": "ray_st.training.loop.evaluation_loop.EvaluationLoop",
    "_evaluation_loss": "ray_st.training.loop.evaluation_loop.EvaluationLoop",
    "_evaluator_metrics": "ray_st.training.loop.evaluation_loop.EvaluationLoop.evaluator_metrics",
    "_call_evaluator": "ray_st.training.loop.evaluation_loop.EvaluationLoop",
    "_evaluator_folder": "HfLoop.evaluator_output_path",
    "_write": "ray_st.training.checkpoint.checkpointer.Checkpointer",
    "_save_all": "HfLoop.save_model",
    "_load_loss_weights": "ray_st.training.checkpoint.contents.load_loss_weights",
    "_describe": "ModelTrainer.spec",
    "push_checkpoint": "ray_st.training.callbacks.hub_upload.CheckpointUpload",
    "_trackers": "ray_st.training.callbacks.tracked_run.TrackedRun",
}
"""Methods of earlier releases that are no longer called, and what replaces each of them."""


def warn_of_retired_methods(kind: type) -> None:
    """Warns if a subclass of a trainer defines methods of earlier releases that are no longer called.

    Args:
        kind: The subclass, while it is being defined.
    """
    for name in sorted(RETIRED.keys() & vars(kind).keys()):
        warnings.warn(
            f"{kind.__name__}.{name} has no effect: no trainer has a method of this name any more. "
            f"See {RETIRED[name]}.",
            stacklevel=3,
        )
