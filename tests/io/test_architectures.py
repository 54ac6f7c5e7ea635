"""Names and configurations: which network each means, and which are refused because they mean another one."""

from __future__ import annotations

from typing import Any

import pytest

from minires.errors import CheckpointError, UnknownNameError
from minires.io.architectures import from_config, from_name, refuse_others

# Every name with "resne" or "senet" in it that timm 1.0.31 registers (`timm.list_models`). test_load_timm.py compares each
# with timm itself.
ACCEPTED = """
    resnet101 resnet101c resnet101d resnet101s resnet10t resnet14t resnet152 resnet152c resnet152d resnet152s
    resnet18 resnet18d resnet200 resnet200d resnet26 resnet26d resnet26t resnet34 resnet34d resnet50 resnet50c
    resnet50d resnet50s resnet50t resnext101_32x16d resnext101_32x32d resnext101_32x4d resnext101_32x8d
    resnext101_64x4d resnext50_32x4d resnext50d_32x4d seresnet101 seresnet152 seresnet152d seresnet18 seresnet200d
    seresnet269d seresnet34 seresnet50 seresnet50t seresnext101_32x4d seresnext101_32x8d seresnext101_64x4d
    seresnext101d_32x8d seresnext26d_32x4d seresnext26t_32x4d seresnext50_32x4d wide_resnet101_2 wide_resnet50_2
""".split()  # noqa: SIM905  # read as a table
REFUSED = """
    bat_resnext26ts cspresnet50 cspresnet50d cspresnet50w cspresnext50 eca_resnet33ts eca_resnext26ts ecaresnet101d
    ecaresnet101d_pruned ecaresnet200d ecaresnet269d ecaresnet26t ecaresnet50d ecaresnet50d_pruned ecaresnet50t
    ecaresnetlight ecaresnext26t_32x4d ecaresnext50t_32x4d gcresnet33ts gcresnet50t gcresnext26ts gcresnext50ts
    inception_resnet_v2 lambda_resnet26rpt_256 lambda_resnet26t lambda_resnet50ts legacy_senet154 legacy_seresnet101
    legacy_seresnet152 legacy_seresnet18 legacy_seresnet34 legacy_seresnet50 legacy_seresnext101_32x4d
    legacy_seresnext26_32x4d legacy_seresnext50_32x4d nf_ecaresnet101 nf_ecaresnet26 nf_ecaresnet50 nf_resnet101
    nf_resnet26 nf_resnet50 nf_seresnet101 nf_seresnet26 nf_seresnet50 resnest101e resnest14d resnest200e
    resnest269e resnest26d resnest50d resnest50d_1s4x24d resnest50d_4s2x40d resnet101_clip resnet101_clip_gap
    resnet32ts resnet33ts resnet50_clip resnet50_clip_gap resnet50_gn resnet50_mlp resnet50x16_clip
    resnet50x16_clip_gap resnet50x4_clip resnet50x4_clip_gap resnet50x64_clip resnet50x64_clip_gap resnet51q
    resnet61q resnetaa101d resnetaa34d resnetaa50 resnetaa50d resnetblur101d resnetblur18 resnetblur50 resnetblur50d
    resnetrs101 resnetrs152 resnetrs200 resnetrs270 resnetrs350 resnetrs420 resnetrs50 resnetv2_101 resnetv2_101d
    resnetv2_101x1_bit resnetv2_101x3_bit resnetv2_152 resnetv2_152d resnetv2_152x2_bit resnetv2_152x4_bit
    resnetv2_18 resnetv2_18d resnetv2_34 resnetv2_34d resnetv2_50 resnetv2_50d resnetv2_50d_evos resnetv2_50d_frn
    resnetv2_50d_gn resnetv2_50t resnetv2_50x1_bit resnetv2_50x3_bit resnext26ts senet154 seresnet33ts seresnetaa50d
    seresnext26ts seresnextaa101d_32x8d seresnextaa201d_32x8d skresnet18 skresnet34 skresnet50 skresnet50d
    skresnext50_32x4d test_resnet tresnet_l tresnet_m tresnet_v2_l tresnet_xl vit_base_resnet26d_224
    vit_base_resnet50d_224 vit_small_resnet26d_224 vit_small_resnet50d_s16_224
""".split()  # noqa: SIM905  # read as a table
# What these were called before tags: the weights of Gluon's model zoo.
OLDER = ["gluon_resnet50_v1b", "gluon_resnet50_v1c", "gluon_resnet50_v1d", "gluon_resnet50_v1s", "gluon_senet154"]


def config(name: str, **more: Any) -> dict[str, Any]:
    """As timm's save_for_hf writes it."""
    arguments = {"num_classes": 7, "in_chans": 3, "global_pool": "avg"}
    return {"architecture": name, "num_classes": 7, "global_pool": "avg", "model_args": arguments, **more}


@pytest.mark.parametrize("name", ACCEPTED)
def test_from_config_knows_what_timm_has_of_the_family(name: str) -> None:
    for full in (name, f"{name}.a1_in1k"):
        declared = from_config(config(full), "here", "config.json")
        assert declared is not None
        assert declared.name == full
        assert declared.facts or declared.builder


@pytest.mark.parametrize("name", [*REFUSED, *OLDER])
def test_from_config_refuses_what_timm_has_of_other_families(name: str) -> None:
    for full in (name, f"{name}.a1_in1k"):
        with pytest.raises(CheckpointError, match=r"^here: config\.json says "):
            from_config(config(full), "here", "config.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"aa_layer": "avg"}, "builds resnet50 with aa_layer = 'avg', which minires' networks do not have"),
        ({"aa_layer": "blurpool"}, "aa_layer = 'blurpool'"),
        ({"output_stride": 16}, "output_stride = 16"),
        ({"norm_layer": "groupnorm"}, "norm_layer = 'groupnorm'"),
        ({"act_layer": "silu"}, "act_layer = 'silu'"),
        ({"replace_stem_pool": True}, "replace_stem_pool = True"),
        ({"block_args": {"attn_layer": "eca"}}, "block_args = {'attn_layer': 'eca'}"),
        ({"block_args": {"attn_layer": "se", "aa_layer": "avg"}}, "block_args"),
        ({"block_args": 3}, "block_args = 3"),
        ({"global_pool": "max"}, "global_pool = 'max'"),
        ({"global_pool": "catavgmax"}, "global_pool = 'catavgmax'"),
        ([1], r"has model_args = \[1\]; expected names and values"),
        ("se", "has model_args = se; expected names and values"),
    ],
)
def test_from_config_refuses_arguments_that_change_what_is_computed(arguments: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_config(config("resnet50", model_args=arguments), "here", "config.json")


def test_from_config_takes_arguments_that_the_tensors_show_or_that_training_needs() -> None:
    arguments = {"drop_path_rate": 0.1, "in_chans": 1, "zero_init_last": False, "block_args": {"attn_layer": "se"}}
    assert from_config(config("seresnet50", model_args=arguments), "here", "config.json") is not None
    assert from_config({"architecture": "resnet18", "model_args": None}, "here", "config.json") is not None


@pytest.mark.parametrize(
    "name",
    [
        "resnet" + "9" * 5_000,
        "resnext50_" + "9" * 5_000 + "x4d",
        "resnet\u0661\u0668",
        "",
        "x" * 1_000_000,
        "resnet18\n",
    ],
)
def test_from_name_refuses_strange_names_in_few_words(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown model") as caught:
        from_name(name, "here")
    assert len(str(caught.value)) < 10_000
    with pytest.raises(CheckpointError, match=r"here: config\.json says architecture") as refused:
        from_config({"architecture": name}, "here", "config.json")
    assert len(str(refused.value)) < 10_000


def test_refuse_others_reads_the_names_of_files() -> None:
    refuse_others("resnet50-0676ba61", "here", "the file's name")
    with pytest.raises(
        CheckpointError, match="the file's name says resnetblur50-84f4748f, which minires does not have"
    ):
        refuse_others("resnetblur50-84f4748f", "here", "the file's name")
