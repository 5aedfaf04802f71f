"""Where work is done that can be cut into pieces: in this process, or on a cluster of machines."""
