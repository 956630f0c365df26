"""Studies, the rollback optimizer and promotion: everything that chooses hyperparameters.

`launch` is the one place that puts a trainer and its callbacks together. This is the only room that
imports Optuna.
"""
