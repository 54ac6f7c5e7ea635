"""TensorBoard events: what is written can be read back, record by record, with the checksums of the format."""

from __future__ import annotations

import pytest

pytest.importorskip("tensorboardX", reason="events are written by tensorboardX")

from minires.train.tensorboard import EventWriter, scalar_name


def scalars(folder):
    """{(tag, step): value} of all event files: TFRecords of Event messages, read by tensorboardX's own classes."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = {}
    files = sorted(folder.glob("events.out.tfevents.*"))
    for file in files:
        data, at = file.read_bytes(), 0
        while at < len(data):
            head = data[at : at + 8]
            size = int.from_bytes(head, "little")
            body = data[at + 12 : at + 12 + size]
            assert data[at + 8 : at + 12] == masked_crc32c(head).to_bytes(4, "little")
            assert data[at + 12 + size : at + 16 + size] == masked_crc32c(body).to_bytes(4, "little")
            event = Event.FromString(body)
            for value in event.summary.value:
                assert (value.tag, event.step) not in found, "an epoch stands there twice"
                found[value.tag, event.step] = value.simple_value
            at += 16 + size
    return found


def row(epoch, **more):
    return {"epoch": epoch, "train_loss": 1.0 / epoch, "val_accuracy": 0.5, "test_accuracy": None, "lr": 0.1, **more}


def test_rows_become_scalars(tmp_path):
    writer = EventWriter(tmp_path)
    writer.add(row(1))
    writer.add(row(2, **{"grad_norm/layer1": 3.0}))
    writer.close()
    found = scalars(tmp_path / "tensorboard")
    assert found["loss/train", 2] == 0.5
    assert found["accuracy/val", 1] == 0.5
    assert found["grad_norm/layer1", 2] == 3.0
    assert ("accuracy/test", 1) not in found and not any(tag == "epoch" for tag, _ in found)


def test_a_run_that_goes_on_writes_no_epoch_twice(tmp_path):
    first = EventWriter(tmp_path)
    for epoch in (1, 2, 3):
        first.add(row(epoch))
    first.close()
    again = EventWriter(tmp_path, [row(1), row(2)])
    again.add(row(3))
    again.close()
    assert {step for _, step in scalars(tmp_path / "tensorboard")} == {1, 2, 3}


def test_names_are_grouped():
    assert [scalar_name(c) for c in ("train_loss", "val_accuracy", "lr", "images_per_second", "grad_norm/fc")] == [
        "loss/train", "accuracy/val", "lr", "images_per_second", "grad_norm/fc",
    ]  # fmt: skip


@pytest.mark.usefixtures("reference_kernels")
def test_a_run_writes_its_report_and_its_events(tmp_path):
    import io

    from minires.train.config import build_config
    from minires.train.session import run_training

    settings = {"epochs": 2, "limit": 120, "workers": 0, "run_dir": str(tmp_path), "tensorboard": True}
    result = run_training(build_config(settings), io.StringIO())
    found = scalars(result.path / "tensorboard")
    for row in result.rows:
        assert found["accuracy/val", row["epoch"]] == pytest.approx(row["val_accuracy"])
        assert found["grad_norm/layer1", row["epoch"]] == pytest.approx(row["grad_norm/layer1"])
    assert result.report is not None
    page = result.report.read_text(encoding="utf-8")
    assert f"{100 * result.test.accuracy:.2f}&nbsp;%" in page
    assert "gradient norm" in page
