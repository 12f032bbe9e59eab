"""The neural networks, torch.nn only: layers, encoders, decoder, output heads, states."""
