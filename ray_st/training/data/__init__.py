"""From the user's datasets to a rank's batches: specs, the batch source builder, samplers, loaders."""
