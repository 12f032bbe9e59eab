"""Running a model over many texts: devices, batches, workers, writers."""
