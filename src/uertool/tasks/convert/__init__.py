"""Conversion of checkpoints between UER-py, Hugging Face and Google."""
