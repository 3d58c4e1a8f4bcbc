"""Experiment runner for multi-task models of multi-step conversions."""

__version__ = "0.1.0"
