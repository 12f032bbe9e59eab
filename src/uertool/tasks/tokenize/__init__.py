"""`tokenize`: tokens and ids of texts, and texts of ids."""
