"""Generated scenes of handwritten digits."""
