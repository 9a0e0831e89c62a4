"""Plan, check, build, train and load; pretraining; the signal check before a run."""
