"""Models for images of another size than they were trained on."""

from transformers import PreTrainedModel


def resize_images(model: PreTrainedModel, image_size: int) -> None:
    """Make a model read images of another size: a checkpoint pre-trained at 256 px is fine-tuned at 384, say.

    Position embeddings are interpolated once (bicubic), so the new ones are trained and saved; ``model.config`` says
    so. A frozen encoder stays frozen.

    Args:
        model: with an ``image_encoder``, such as an `AlbefModel`; changed in place.
        image_size: height and width in pixels of the images to come.

    Raises:
        ConfigError: the encoder cannot take images of that size.
    """
    encoder = model.image_encoder
    resized = encoder.resized(image_size)
    if resized is encoder:
        return
    resized.train(encoder.training)
    for new, old in zip(resized.parameters(), encoder.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    if encoder.frozen:
        resized.freeze()
    model.image_encoder = resized.to(model.device)
    model.config.image_encoder = resized.config
