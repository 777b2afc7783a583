"""Basics for every other package: errors, config files, class names, label conventions. Imports no torch."""
