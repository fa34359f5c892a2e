"""Which documents would lower the loss on a reference set: gradients, curvature, scores."""
