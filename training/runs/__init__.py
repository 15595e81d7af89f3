"""The run directory: configuration, metrics, checkpoints and result, whole or absent."""
