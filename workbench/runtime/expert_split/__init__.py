"""Finds how the mixtures of experts of a user's module can be divided over workers, and verifies it."""
