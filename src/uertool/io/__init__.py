"""Reading and writing files: atomic output, vector files, numbers as text, memory accounting."""
