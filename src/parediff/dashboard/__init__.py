"""The page over all records."""
