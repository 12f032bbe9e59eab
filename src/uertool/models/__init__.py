"""The neural networks, torch.nn only, and the registry that loads them."""
