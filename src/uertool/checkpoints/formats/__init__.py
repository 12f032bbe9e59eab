"""File formats of weights: each as a lazy mapping from raw names to tensors."""
