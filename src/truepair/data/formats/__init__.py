"""Readers of the formats that image-text pairs come in, each of which yields ``Record``s."""
