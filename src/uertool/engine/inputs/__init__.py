"""Inputs: files that are found, counted, cut into blocks of lines, and read."""
