"""From the user's datasets to a rank's batches: specs, one builder of sources, samplers, loaders."""
