"""Corruptions of test images, after ImageNet-C: what each does, and the corrupted images of a split on disk."""
