"""Cloze tests: fill in masked tokens."""
