"""The same runs on a cluster: a launcher over submitit, cluster profiles, a one-machine SLURM for tests."""
