"""Files and stores that are there whole or not at all."""
