"""What the commands do, as plain functions and classes usable from Python."""
