"""BERT and the encoders whose names are its own but for a prefix and a few tables."""
