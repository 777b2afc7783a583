"""Compute scores from integer counts."""
