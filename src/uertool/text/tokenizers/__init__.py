"""Tokenizers, one class a file."""
