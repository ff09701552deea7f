"""What labels say: names of dimensions and coordinates, attributes, units, and bounds of valid values."""
