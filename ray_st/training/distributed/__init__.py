"""Communication between ranks: all collectives, and evaluators distributed over ranks."""
