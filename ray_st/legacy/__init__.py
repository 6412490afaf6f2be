"""``fit`` and ``old_fit``: how older scripts train, on top of the trainer.

It may import everything but the command line. New ways to train go into the trainer, not here.
"""
