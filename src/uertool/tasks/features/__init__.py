"""Sentence and token vectors, pooling and whitening."""
