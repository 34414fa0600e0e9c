"""What a reader sees: figure, table and page over the same records."""
