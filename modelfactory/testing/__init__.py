"""Helpers for the tests of a project: `assert_init`."""

from modelfactory.testing.initial_values import assert_init

__all__ = ["assert_init"]
