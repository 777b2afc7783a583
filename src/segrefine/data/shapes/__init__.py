"""Draw generated scenes. The data module is `segrefine.data.sets.shapes`."""
