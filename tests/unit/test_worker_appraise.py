"""Appraisal: encodings tried on one host, and the pictures that they are tried on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.lab.cgroup import quota
from testbed.model.engine import Engine
from testbed.worker import appraise as appraise_module
from testbed.worker.appraise import appraise, picture_like
from testbed.worker.codecs import jpeg_encode
from testbed.worker.encoding import Decoder, Encoder
from tests.unit.exported import exported


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.features = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    torch.manual_seed(3)
    small = exported(Small(), tmp_path_factory.mktemp("model") / "small.archive", 64)
    candidates = small.table.candidates("natural")
    return Engine(small.archive, small.archive_sha256, small.table, candidates, batch=4)


def found(engine: Engine, *, agreement: bool) -> dict[str, dict[str, Any]]:
    inputs, features = ["uint8", "jpeg:50"], ["float32", "float32+lz4", "float16", "int8"]
    return appraise(
        engine, inputs=inputs, features=features, repeats=2, seed=1, agreement=agreement
    )


def test_every_encoding_at_every_candidate(engine: Engine) -> None:
    told = found(engine, agreement=True)
    inner = [s for s in engine.candidates if s not in ("offload", "local")]
    assert inner
    for name, rows in told.items():
        pixels = name in ("uint8", "jpeg:50")
        assert list(rows) == (["offload"] if pixels else inner)
        for row in rows.values():
            assert row["images"] == 4
            assert min(row["encode_ns"], row["decode_ns"], row["bytes"]) > 0
    for lossless in ("uint8", "float32", "float32+lz4"):
        for row in told[lossless].values():
            assert (row["top1_share"], row["max_abs"], row["mean_abs"]) == (1.0, 0.0, 0.0)
    for split in inner:
        coarse, fine = told["int8"][split], told["float16"][split]
        assert coarse["bytes"] < fine["bytes"] < told["float32"][split]["bytes"]
        assert coarse["mean_abs"] > fine["mean_abs"] > 0
        assert coarse["max_abs"] < 0.05
    plain = found(engine, agreement=False)
    assert set(plain["int8"][inner[0]]) == {"encode_ns", "decode_ns", "bytes"}


def test_each_encoding_is_timed_after_a_wait_as_in_a_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    encode, decode = Encoder.encode, Decoder.decode
    monkeypatch.setattr(appraise_module, "sleep", lambda seconds: did.append(f"wait {seconds}"))
    monkeypatch.setattr(Encoder, "encode", lambda *a: (did.append("encode"), encode(*a))[1])
    monkeypatch.setattr(Decoder, "decode", lambda *a: (did.append("decode"), decode(*a))[1])
    appraise(engine, inputs=["jpeg:50"], features=[], repeats=2, seed=1, agreement=False)
    assert did == ["wait 0.02", "encode", "wait 0.02", "decode"] * 2
    longest_us = max(quota(share / 100)[0] for share in range(5, 100))
    assert longest_us <= 0.02e6


def test_labelled_images_tell_the_accuracy_of_each_encoding(engine: Engine) -> None:
    batches = [picture_like(engine.table, batch=4, seed=seed) for seed in (1, 2)]
    right = [engine.whole(x).argmax(1) for x in batches]
    labels = (right[0], (right[1] + 1) % 10)  # of the second batch all are wrong
    asked = {"inputs": ["uint8"], "features": ["float32", "int8"], "repeats": 1, "seed": 1}
    told = appraise(engine, **asked, agreement=True, pictures=(batches, labels))
    for rows in told.values():
        for row in rows.values():
            assert (row["images"], row["whole_accuracy"]) == (8, 0.5)
    assert all(row["accuracy"] == 0.5 for row in told["float32"].values())
    for row in told["int8"].values():
        assert abs(row["accuracy"] - 0.5) <= 1 - row["top1_share"]


def test_pictures_are_as_hard_to_compress_as_photographs(engine: Engine) -> None:
    pictures = picture_like(engine.table, batch=2, seed=5)
    assert torch.equal(pictures, picture_like(engine.table, batch=2, seed=5))
    assert not torch.equal(pictures, picture_like(engine.table, batch=2, seed=6))
    assert pictures.shape == (2, 3, 64, 64)
    assert 30 < float(pictures.float().std()) < 70
    noise = torch.randint(0, 256, pictures.shape, dtype=torch.uint8)
    sizes = [len(jpeg_encode(images, 75)) for images in (pictures, noise)]
    assert sizes[0] < sizes[1] / 2
    assert sizes[0] > 1000
