"""The commands. Nothing heavy is imported here: `--help` and mistakes in options answer at once."""
