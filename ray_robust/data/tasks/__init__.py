"""Shifted fine-tuning problems, one file each."""
