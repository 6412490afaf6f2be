"""What ranks say to each other: all collectives, and evaluators whose work they share."""
