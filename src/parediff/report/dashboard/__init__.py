"""The page over all records: read once, packed by column, written as a folder or a file, or served and followed."""
