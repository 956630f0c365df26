"""SLURM: submit a command of ours as jobs (`submission`), run it there (`task`), show and cancel
the jobs of a study (`jobs`)."""
