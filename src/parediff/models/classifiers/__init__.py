"""Image classifiers: networks, weights, and the model that methods see."""
