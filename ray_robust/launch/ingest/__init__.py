"""Filling image stores on a cluster or in this process."""
