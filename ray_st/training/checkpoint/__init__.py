"""Writing, finding and verifying checkpoints, write leases, and the choice of what a run resumes from."""
