"""How good sentence vectors and masked language models are, on labelled pairs and on plain text."""
