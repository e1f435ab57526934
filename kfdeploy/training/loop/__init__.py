"""The training loop and what it stands on: batches, devices, checkpoints, progress."""
