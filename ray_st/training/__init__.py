"""The loop of one worker: collate, embed, gather, step, evaluate, save. Knows torch, not Ray."""
