"""Failures, preemption, and the disk space of checkpoints."""
