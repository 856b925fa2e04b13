"""Loads every plugin, once in the fork server of the tests instead of in each worker."""

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES

for family in (MODELS, DATASETS, STRATEGIES, SCHEDULES):
    family.names()
