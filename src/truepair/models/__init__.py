"""Image, text and fusion encoders, the ALBEF model made of them, and converters of published checkpoints."""
