"""Methods, metrics and experiments of our own; parediff finds what lies in conf/."""
