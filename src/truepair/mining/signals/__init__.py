"""What may tell whether a caption is true of a picture: families of signals on any cells of a gallery."""
