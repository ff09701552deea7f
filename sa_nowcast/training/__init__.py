"""Training on Lightning: losses, schedules, the module, checkpoints, `fit`."""
