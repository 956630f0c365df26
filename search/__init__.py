"""What chooses hyperparameters: studies, the rollback optimizer, promotion; and `launch`.

`launch` is the one place that puts a trainer and its callbacks together. This is the only room
that imports Optuna.
"""
