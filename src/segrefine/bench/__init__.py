"""Measure the speed and memory of networks."""
