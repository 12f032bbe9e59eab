"""One file per architecture: its weight table and its Hugging Face configuration map."""
