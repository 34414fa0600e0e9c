"""What a kind of model is asked to do, so that one line serves every kind."""
