"""Where checkpoints are written, found and trusted, who may write them, and what a run resumes from."""
