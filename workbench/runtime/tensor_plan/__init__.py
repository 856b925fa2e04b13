"""Finds how the modules of a user's model can be cut along the tensor axis, and proves it by computing."""
