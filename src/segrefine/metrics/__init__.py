"""Scores from integer counts."""
