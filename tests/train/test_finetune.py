"""Beginning from given weights: which network, what is copied, what stays frozen, and that it pays with few labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.data import ArrayDataset, load
from minires.errors import CheckpointError, ConfigError
from minires.io.safetensors import save_file
from minires.tensor import Tensor
from minires.train.checkpoint import load_checkpoint, load_model, restore
from minires.train.config import build_config
from minires.train.evaluate import evaluate
from minires.train.finetune import fit_channels, read_weights
from minires.train.run_folder import RunFolder
from minires.train.session import TrainResult, _run, resume_training, run_training
from minires.train.setup import Parts, build_parts
from minires.train.stages import stage_names, stage_of
from tests.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("reference_kernels")


def train(folder: Path, data: tuple[ArrayDataset, ArrayDataset] | None = None, **settings: Any) -> TrainResult:
    parts = build_parts(build_config({"run_dir": str(folder), "test_every": 0}, settings), data=data)
    with RunFolder.create(parts.config) as run:
        return _run(parts, run, io.StringIO(), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net of other options than the recipe's, briefly trained to tell digits modulo 5."""
    with minires.backend.use_kernels("reference"):
        options = {"model_options": ["width=8", "shortcut=B"], "epochs": 2, "limit": 300}
        return train(tmp_path_factory.mktemp("given"), modulo_5(), **options).path


def modulo_5() -> tuple[ArrayDataset, ArrayDataset]:
    sets = load("digits")
    return tuple(ArrayDataset(d.images, d.labels % 5, None, d.name, [0.3], [0.4]) for d in sets)  # type: ignore[return-value]


def parts_of(run: Path, **settings: Any) -> Parts:
    return build_parts(build_config({"recipe": "finetune", "weights": str(run), "limit": 200}, settings))


@pytest.mark.parametrize("file", ["", "best.safetensors", "last.ckpt"])
def test_weights_of_a_run_settle_network_options_and_normalisation(run: Path, file: str) -> None:
    parts = parts_of(run / file, head="new")
    assert (parts.config.model, parts.config.model_options) == ("resnet8", ["width=8", "shortcut=B"])
    assert parts.loader.dataset.mean == parts.test.mean == np.float32(0.3)
    assert parts.loader.dataset.std == np.float32(0.4)
    given = load_model(load_checkpoint(run / file)).state_dict()
    ours = parts.model.state_dict()
    assert ours["fc.weight"].shape == (10, 32)
    for name in ours:
        if not name.startswith("fc."):
            np.testing.assert_array_equal(ours[name].numpy(), given[name].numpy(), err_msg=name)


def test_head_is_new_fitted_or_kept(run: Path) -> None:
    new, fitted = (parts_of(run, head=head).model.state_dict()["fc.weight"].numpy() for head in ("new", "probe"))
    minires.manual_seed(0)
    fresh = models.build("resnet8", num_classes=10, in_channels=1, width=8, shortcut="B")
    np.testing.assert_array_equal(new, fresh.fc.weight.array)
    parts = parts_of(run)
    assert (fitted != new).any()
    labelled = parts.loader.dataset
    assert evaluate(parts.model, labelled).accuracy > 0.5 > evaluate(parts_of(run, head="new").model, labelled).accuracy
    with pytest.raises(
        ConfigError, match="head = 'keep': the weights know 5 classes, the data has 10; take head = 'new'"
    ):
        parts_of(run, head="keep")
    config = build_config({"recipe": "finetune", "weights": str(run), "limit": 200, "head": "keep"})
    kept = build_parts(config, data=modulo_5()).model.state_dict()
    for name, tensor in load_model(load_checkpoint(run)).state_dict().items():
        np.testing.assert_array_equal(kept[name].numpy(), tensor.numpy(), err_msg=name)


def test_frozen_stages_and_their_batch_norm_keep_every_bit_while_the_rest_learns(run: Path, tmp_path: Path) -> None:
    result = train(tmp_path, weights=str(run), recipe="finetune", freeze="layer1", epochs=2, limit=200)
    before = parts_of(run).model.state_dict()
    after = load_checkpoint(result.path / "last.ckpt").model
    model = models.build("resnet8", num_classes=10, in_channels=1, width=8, shortcut="B")
    names = stage_names(model)
    for name, tensor in after.items():
        same = (tensor.numpy() == before[name].numpy()).all()
        assert same == (stage_of(name, names) in ("stem", "layer1")), name


def test_run_that_goes_on_needs_its_weights_no_more_and_keeps_normalisation_and_frozen_stages(
    run: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given.ckpt"
    given.write_bytes((run / "last.ckpt").read_bytes())
    result = train(tmp_path, recipe="finetune", weights=str(given), limit=100, epochs=1)
    given.unlink()
    checkpoint = load_checkpoint(result.path / "last.ckpt")
    parts = build_parts(checkpoint.config, facts=checkpoint.data)
    restore(checkpoint, parts)
    assert parts.loader.dataset.mean == np.float32(0.3)
    assert [type(module) for module in parts.frozen] == [nn.Conv2d, nn.BatchNorm2d]
    assert not parts.model.conv1.weight.requires_grad
    for name, tensor in parts.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), checkpoint.model[name].numpy(), err_msg=name)
    with pytest.raises(CheckpointError, match="has finished its 1 epochs"):
        resume_training(result.path, io.StringIO())


def test_weights_of_a_safetensors_file_need_a_name_unless_it_is_guessable(tmp_path: Path) -> None:
    model = models.build("resnet18", num_classes=7, in_channels=3, small_input=True)
    save_file(model.state_dict(), tmp_path / "net.safetensors", {"format": "pt"})
    config = build_config({"recipe": "finetune", "weights": str(tmp_path / "net.safetensors")})
    with pytest.raises(ConfigError, match=r"weights: nothing beside .*net\.safetensors says which .*: --model NAME"):
        read_weights(config)
    parts = build_parts(
        build_config(
            {"recipe": "finetune", "weights": str(tmp_path / "net.safetensors"), "model": "resnet18"},
            {"head": "new", "limit": 50},
        )
    )
    assert parts.config.model_options == ["small_input=true"]
    grey, colour = parts.model.conv1.weight.array, model.conv1.weight.array
    np.testing.assert_array_equal(grey, colour.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(parts.model.layer4[1].conv2.weight.array, model.layer4[1].conv2.weight.array)


def test_weights_that_are_not_there_or_of_another_network_are_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match="weights: there is no file or folder nowhere"):
        build_parts(build_config({"recipe": "finetune", "weights": "nowhere"}))
    with pytest.raises(ConfigError, match=r"weights: .* are of resnet8, not of model = 'resnet20'; leave it out"):
        build_parts(build_config({"recipe": "finetune", "weights": str(run), "model": "resnet20"}))


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 1), (1, 3), (3, 4), (2, 2)])
def test_fit_channels_gives_the_same_for_an_image_with_equal_channels(c_in: int, c_out: int) -> None:
    rng = np.random.default_rng(0)
    weight, plane = rng.standard_normal((5, c_in, 3, 3)).astype(np.float32), rng.standard_normal((1, 1, 6, 6))
    outputs = [
        nn.functional.conv2d(Tensor(np.repeat(plane, w.shape[1], axis=1).astype(np.float32)), Tensor(w)).numpy()
        for w in (weight, fit_channels(weight, c_out))
    ]
    assert fit_channels(weight, c_out).shape == (5, c_out, 3, 3)
    assert_close(outputs[1], outputs[0], "float32", 9 * max(c_in, c_out))


@pytest.mark.slow
def test_finetuning_beats_training_from_scratch_with_20_labels_a_class(tmp_path: Path) -> None:
    """Many digits labelled modulo 5 alone, then 20 of each of the ten classes; the same labels, split and seeds for both.

    Nothing is chosen by the 360 test images, which are looked at once, after the last epoch.
    """
    given = train(tmp_path, modulo_5(), epochs=6)
    scratch, fine = [], []
    for seed in range(3):
        same = {"per_class": 20, "val_fraction": 0.2, "epochs": 20, "batch_size": 32, "seed": seed}
        scratch.append(train(tmp_path, **same).test.accuracy)
        fine.append(train(tmp_path, recipe="finetune", weights=str(given.path), **same).test.accuracy)
    assert np.mean(fine) > np.mean(scratch) + 0.005, (fine, scratch)


def test_run_from_weights_writes_the_settled_settings(run: Path, tmp_path: Path) -> None:
    config = build_config(
        {"recipe": "finetune", "weights": str(run), "limit": 100, "epochs": 1, "run_dir": str(tmp_path)}
    )
    result = run_training(config, io.StringIO())
    assert result.path.name == "digits-resnet8"
    assert load_model(load_checkpoint(result.path)).fc.weight.shape == (10, 32)
    assert 'model = "resnet8"' in (result.path / "config.toml").read_text()
