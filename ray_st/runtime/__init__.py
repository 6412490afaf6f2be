"""The only room that imports Ray: clusters, object store, shards, workers."""
