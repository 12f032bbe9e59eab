"""Building, comparing and changing vocabularies."""
