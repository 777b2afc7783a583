"""A run's folder: its file names, its summary, its options, and how finished runs are read. Knows no network."""

from segrefine.runs.folder import RunFolder
from segrefine.runs.summary import Summary

__all__ = ["RunFolder", "Summary"]
