"""Sweeps: what their folders hold, which jobs are done, and how a job is kept from harming another."""
