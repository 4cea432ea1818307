import pytest

from truepair.errors import ConfigError
from truepair.models.fusion.config import SIZES, AlbefConfig


def test_defaults_are_the_published_base_model() -> None:
    assert AlbefConfig().to_dict() == AlbefConfig.base().to_dict()
    assert AlbefConfig().image_encoder["image_size"] == 256


@pytest.mark.parametrize("size", SIZES)
def test_each_size_is_a_class_method_and_takes_overrides(size: str) -> None:
    config = getattr(AlbefConfig, size)(vocab_size=77)
    assert config.vocab_size == 77
    assert config.image_encoder == SIZES[size]["image_encoder"]


def test_configs_do_not_share_their_image_encoder() -> None:
    AlbefConfig.tiny().image_encoder["patch_size"] = 3
    AlbefConfig().image_encoder["patch_size"] = 3
    assert AlbefConfig.tiny().image_encoder["patch_size"] == 8
    assert AlbefConfig().image_encoder["patch_size"] == 16


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'tiny'"):
        AlbefConfig.of_size("tinny")
    with pytest.raises(ConfigError, match="'embed_dim'"):
        AlbefConfig.tiny(embed_dims=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_pooling": "max"}, "image_pooling"),
        ({"text_pooling": "max"}, "text_pooling"),
        ({"projection": "none"}, "projection"),
        ({"hidden_size": 100, "num_attention_heads": 3}, "num_attention_heads"),
        ({"fusion_layers": 0}, "fusion_layers"),
        ({"text_layers": 0}, "text_layers"),
        ({"itm_product": True, "contrastive_head": False}, "itm_product"),
        ({"temperature_init": 0.9}, "temperature"),
        ({"temperature_min": 0.0}, "temperature"),
    ],
)
def test_contradictions_are_config_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlbefConfig.tiny(**fields)


def test_a_saved_config_comes_back(tmp_path) -> None:
    config = AlbefConfig.small(itm_product=True, image_pooling="mean")
    config.save_pretrained(tmp_path)
    loaded = AlbefConfig.from_pretrained(tmp_path)
    assert loaded.image_encoder == config.image_encoder
    assert (loaded.itm_product, loaded.image_pooling, loaded.hidden_size) == (True, "mean", 384)
