"""Sweeps: what their folders hold, which jobs are done, and how a job is kept from harming another."""

from modelfactory.sweep.records import Job, Sweep, read_sweep

__all__ = ["Job", "Sweep", "read_sweep"]
