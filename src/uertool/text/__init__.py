"""Vocabularies, tokenizers and readers of text."""
