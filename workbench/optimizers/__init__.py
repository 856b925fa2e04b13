"""Optimizers of the user's own code; torch's are described in ``workbench.plan.optimizer``."""
