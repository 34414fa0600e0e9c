"""What gets compressed: diffusion pipelines and image classifiers."""
