"""From the command line to checked objects: composing, the request, what there is to choose from."""
