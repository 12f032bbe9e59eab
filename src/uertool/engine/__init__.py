"""Running work over any number of lines: inputs, executors, shards, resuming."""
