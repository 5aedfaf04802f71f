"""What else happens at each step of a training: masks, clusters, pruning."""
