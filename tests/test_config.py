"""SwinConfig: every wrong value is a sentence, every right one survives JSON."""

import json
import math

import pytest

from swinkit.config import SwinConfig
from swinkit.errors import ConfigError, SwinkitError, UnknownNameError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window_size": 0}, r"window_size is 0; expected a whole number of at least 1"),
        ({"window_size": [7, 7]}, "list of 4"),
        ({"window_size": "7"}, "window_size is '7'"),
        ({"window_size": (7, 7, 7)}, "list of 4"),
        ({"depths": (2, 2, 6)}, "depths has 3 stages and num_heads 4"),
        ({"depths": ()}, "one whole number per stage"),
        ({"depths": (2, 2, 0, 2)}, r"depths\[2\] is 0"),
        ({"embed_dim": 97}, "97 channels, which 3 heads do not divide"),
        ({"embed_dim": 96.0}, "embed_dim is 96.0; expected a whole number"),
        ({"embed_dim": True}, "embed_dim is True"),
        ({"num_heads": (3, 6, 12, 25)}, "Stage 3 has 768 channels"),
        ({"drop_path_rate": math.nan}, "drop_path_rate is nan; expected a probability"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
        ({"attn_drop_rate": -0.1}, "attn_drop_rate is -0.1"),
        ({"mlp_ratio": math.nan}, "mlp_ratio is nan; expected a finite number above 0"),
        ({"mlp_ratio": math.inf}, "mlp_ratio is inf"),
        ({"mlp_ratio": 0.001}, "leaves no hidden channel"),
        ({"qk_scale": math.nan}, "qk_scale is nan"),
        ({"version": 3}, "versions 1 and 2"),
        ({"version": 2, "qk_scale": 1.0}, "V2 learns its scale"),
        ({"pretrained_window_sizes": (12, 12, 12, 6)}, "V1 has a table"),
        ({"version": 2, "pretrained_window_sizes": (12, 12)}, "2 values for 4 stages"),
        ({"version": 2, "pretrained_window_sizes": (-1, 0, 0, 0)}, r"pretrained_window_sizes\[0\] is -1"),
        ({"img_size": 3}, "smaller than one patch"),
        ({"img_size": (224, 224, 3)}, r"expected a whole number or a \(height, width\) pair"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"in_chans": 0}, "in_chans is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"ape": "no"}, "ape is 'no'; expected True or False"),
    ],
)
def test_wrong_values_are_sentences(wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        SwinConfig(**wrong)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SwinkitError)


def test_unknown_names_get_the_close_ones():
    with pytest.raises(UnknownNameError, match="Did you mean official"):
        SwinConfig(size_policy="oficial")
    with pytest.raises(UnknownNameError, match="Did you mean window_size"):
        SwinConfig.from_dict({"windows_size": 7})
    with pytest.raises(UnknownNameError, match="embed_dim"):
        SwinConfig().replace(embed_dims=3)


@pytest.mark.parametrize(
    "config",
    [
        SwinConfig(),
        SwinConfig(window_size=(4, 8), img_size=(192, 256), patch_size=(4, 2)),
        SwinConfig(window_size=[7, (7, 5), 14, 7]),
        SwinConfig(depths=(2, 2), num_heads=(3, 6), window_size=(4, 8)),
        SwinConfig(depths=(2, 2), num_heads=(3, 6), window_size=[4, 8]),
        SwinConfig(version=2, pretrained_window_sizes=(12, 12, 12, (6, 6)), num_classes=0),
    ],
)
def test_json_round_trip(config):
    assert SwinConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(config.replace())


def test_two_window_sizes_are_a_pair_as_a_tuple_and_stages_as_a_list():
    two = {"depths": (2, 2), "num_heads": (3, 6), "size_policy": "dense"}
    assert SwinConfig(**two, window_size=(4, 8)).windows == ((4, 8), (4, 8))
    assert SwinConfig(**two, window_size=[4, 8]).windows == ((4, 4), (8, 8))


def test_pretrained_windows_default_to_the_windows_as_built():
    config = SwinConfig(version=2, img_size=256, window_size=16, pretrained_window_sizes=(12, 0, 12, 0))
    assert config.windows == ((16, 16), (16, 16), (16, 16), (8, 8))
    assert config.pretrained_windows == ((12, 12), (16, 16), (12, 12), (8, 8))
