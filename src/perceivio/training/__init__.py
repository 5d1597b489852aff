"""Training: the model's function with gradients, fast, and what goes around it."""
