"""What gets compressed, and the only door to diffusers."""
