"""Cross-layer equalisation and SmoothQuant: ranges of channels that share a scale are made alike."""
