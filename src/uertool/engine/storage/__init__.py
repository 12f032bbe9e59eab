"""Where shards are kept: file systems, folders, records, and how shards are joined."""
