"""Training, evaluation and prediction: the one package, beside the data module, that knows Lightning."""
