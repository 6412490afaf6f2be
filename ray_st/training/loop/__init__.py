"""The loop of one worker: the one adapter over transformers' Trainer, steps, evaluations, predictions."""
