"""What every other package builds on: errors, config files, names of classes, label conventions. Imports no torch."""
