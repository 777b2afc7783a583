"""Files of weights: checkpoints of runs, published weights, export."""
