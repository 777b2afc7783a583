"""Generated scenes: how they are drawn (`segrefine.data.sets.shapes` is the data module)."""
