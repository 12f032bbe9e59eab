"""From a reference to a loaded model: registry, hub, configuration, assembling."""
