"""Which images are asked for, how they are drawn, and what is shown of them."""
