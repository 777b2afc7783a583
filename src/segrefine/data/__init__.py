"""Data sets, their splits and loaders. Data knows no model: nothing here imports one."""
