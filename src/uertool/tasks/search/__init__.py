"""Similar lines: search in a corpus, indexes of it, and near-duplicates."""
