"""Correcting what low precision does to a prediction, inside the network and between steps, and measuring it."""
