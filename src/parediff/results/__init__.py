"""Records on disk, the points they make, and the front over them."""
