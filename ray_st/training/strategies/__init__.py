"""How model and losses are wrapped, sharded, cast and grouped for the optimizer."""
