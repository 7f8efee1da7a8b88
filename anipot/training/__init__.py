"""Training: losses, tasks and runs."""
