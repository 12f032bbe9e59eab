"""Where blocks are worked on: in this process, in others, or on a Ray cluster."""
