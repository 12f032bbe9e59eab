"""Word vectors: export, neighbours, substitutes in context."""
