"""Loads every plugin: what the fork server of the tests does once, so that no worker has to."""

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES

for family in (MODELS, DATASETS, STRATEGIES, SCHEDULES):
    family.names()
