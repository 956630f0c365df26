"""Everything that chooses hyperparameters or launches trainings, and the command line."""
