"""The commands. Nothing heavy is imported here: `--help` and mistakes in options get an immediate answer."""
