"""Text generation: decoding settings, sampling, beam search, stopping, readable text."""
