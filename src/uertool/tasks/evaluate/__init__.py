"""Evaluation of sentence vectors on scored pairs, and of masked language models on text."""
