"""Image encoders, frozen encoders and their caches."""
