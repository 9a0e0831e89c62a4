"""Commands, the Hydra application, the process of one job."""
