"""Encodings: what arrives against what was sent, and what a damaged payload may not do."""

from __future__ import annotations

import gc
import struct
import weakref
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from testbed.config.experiment import EncodingSpec
from testbed.encodings import FEATURES, Encoding, missing, parse_features, parse_input
from testbed.errors import UserError
from testbed.model.table import SplitPoint, SplitTable
from testbed.worker import codecs
from testbed.worker.codecs import DamagedPayload
from testbed.worker.encoding import Decoder, Encoder, aligned_buffer, bytes_of, tensor_view
from testbed.worker.layout import Allowed, Layout, layouts
from testbed.worker.wire import BadFrame, Dtype

TABLE = SplitTable(
    "tiny",
    16,
    (3, 16, 16),
    5,
    (
        SplitPoint("offload", -1, "input", (), ((3, 16, 16),), 1.0, False, False),
        SplitPoint("0", 0, "a", ("a",), ((6, 5, 5),), 0.2, True, True),
        SplitPoint("1", 1, "b", ("b", "c"), ((3, 7), (4, 2, 3)), 0.06, True, True),
        SplitPoint("local", 2, "output", ("d",), ((5,),), 0.01, False, False),
    ),
)
EVERY = [f"{e}{c}" for e in FEATURES for c in ("", "+zstd", "+lz4")]
PIXELS = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)


def known(features: str = "float32", pixels: str = "uint8") -> dict[str, Layout]:
    candidates = [point.split for point in TABLE.points]
    return layouts(TABLE, candidates, {"input": pixels, "features": features}, 2)


def there_and_back(layout: Layout, crossing: Tensor | tuple[Tensor, ...]) -> Tensor:
    payload = Encoder({layout.split: layout}).encode(layout.split, crossing)
    Allowed([layout])(layout.header(0, len(payload)))
    received = aligned_buffer(len(payload))
    received[:] = payload
    return Decoder([layout]).decode(layout, received)


@pytest.mark.parametrize("name", EVERY)
def test_features_arrive_within_the_encodings_own_error(name: str) -> None:
    torch.manual_seed(1)
    # Channels of very different ranges, far from zero, not contiguous.
    spread = torch.tensor([1e-3, 1, 10, 100, 1, 1]).view(1, 6, 1, 1)
    sent = (torch.randn(2, 6, 5, 5) * spread + 40).transpose(2, 3)
    got = there_and_back(known(name)["0"], sent)
    assert got.dtype == torch.float32
    if name.startswith("float32"):
        assert torch.equal(got, sent)
    elif name.startswith("float16"):
        assert torch.equal(got, sent.half().float())
    else:
        over = (0, 2, 3) if "channel" in name else (0, 1, 2, 3)
        step = (sent.amax(over, keepdim=True) - sent.amin(over, keepdim=True)) / 255
        # Half a step, and the float32 that carries values around 40.
        assert ((got - sent).abs() <= step / 2 + 1e-5).all()
        assert torch.unique(got).numel() > 50


@pytest.mark.parametrize("name", EVERY)
def test_several_tensors_cross_in_order(name: str) -> None:
    torch.manual_seed(2)
    sent = (torch.randn(2, 3, 7), torch.randn(2, 4, 2, 3))
    layout = known(name)["1"]
    assert layout.header(0).shape == (2, 21 + 24)
    got = there_and_back(layout, sent)
    assert [tensor.shape for tensor in got] == [tensor.shape for tensor in sent]
    for ours, theirs in zip(got, sent, strict=True):
        assert (ours - theirs).abs().max() < (1e-9 if "float32" in name else 0.02)
        assert ours.data_ptr() % 64 == 0


@pytest.mark.parametrize("name", FEATURES)
def test_one_number_for_each_image_crosses_too(name: str) -> None:
    code = parse_features(name)
    sent = torch.tensor([1.5, -2.0])
    got = there_and_back(Layout("2", 2, code, ((2,),)), sent)
    assert got.shape == (2,)
    assert (got - sent).abs().max() < 0.01


@pytest.mark.parametrize("name", ["int8", "int8-channel"])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_a_constant_tensor_is_exact(name: str, value: float) -> None:
    sent = torch.full((2, 6, 5, 5), value)
    assert torch.allclose(there_and_back(known(name)["0"], sent), sent, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["uint8", "float32", "uint8+zstd", "uint8+lz4", "float32+zstd"])
def test_pixels_arrive_whole(name: str) -> None:
    got = there_and_back(known(pixels=name)["offload"], PIXELS)
    assert got.dtype == torch.uint8
    assert torch.equal(got, PIXELS)


def test_jpeg_is_close_on_smooth_images_and_smaller() -> None:
    ramp = torch.linspace(0, 255, 16)
    smooth = torch.stack([ramp.view(1, -1).expand(16, 16), ramp.view(-1, 1).expand(16, 16)])
    images = torch.cat([smooth, smooth[:1]]).to(torch.uint8).expand(2, 3, 16, 16)
    got = there_and_back(known(pixels="jpeg:95")["offload"], images)
    assert got.shape == images.shape
    assert (got.int() - images.int()).abs().float().mean() < 8
    sizes = [
        len(Encoder(known(pixels=f"jpeg:{q}")).encode("offload", PIXELS)) for q in (10, 50, 100)
    ]
    assert sizes == sorted(set(sizes))


@given(st.binary(max_size=64), st.sampled_from(["zstd", "lz4"]), st.integers(0, 400))
def test_damaged_payload_is_refused_or_harmless(noise: bytes, codec: str, at: int) -> None:
    layout = known(f"float32+{codec}")["0"]
    payload = bytearray(Encoder({"0": layout}).encode("0", torch.ones(2, 6, 5, 5)))
    payload[at : at + len(noise)] = noise
    decoder = Decoder([layout])
    try:
        got = decoder.decode(layout, memoryview(payload))
    except DamagedPayload:
        return
    assert got.shape == (2, 6, 5, 5)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_bomb_takes_no_more_memory_than_the_table_allows(codec: str) -> None:
    raw = memoryview(bytes(300_000_000))
    compression = codecs.make_codec(parse_features(f"float32+{codec}"))
    layout = known(f"float32+{codec}")["0"]
    assert compression is not None
    bomb = compression.compress(raw)
    assert len(bomb) < len(raw) / 200
    del raw
    with pytest.raises(DamagedPayload):
        Decoder([layout]).decode(layout, memoryview(bomb))


def test_a_zstd_frame_that_hides_its_length_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    layout = known("float32+zstd")["0"]
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(layout.raw_bytes))
    with pytest.raises(DamagedPayload, match="expected 1200 bytes"):
        Decoder([layout]).decode(layout, memoryview(hidden))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "fewer"),
        (struct.pack("<I", 9) + b"abc", "9 bytes"),
        (struct.pack("<I", 3) + b"abc" + bytes(50), "JPEG"),
    ],
)
def test_damaged_images_are_refused(payload: bytes, reason: str) -> None:
    layout = known(pixels="jpeg:80")["offload"]
    with pytest.raises(DamagedPayload, match=reason):
        Decoder([layout]).decode(layout, memoryview(payload))


def test_an_image_of_another_size_or_one_too_many_is_refused() -> None:
    layout = known(pixels="jpeg:80")["offload"]
    large = codecs.jpeg_encode(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), 80)
    with pytest.raises(DamagedPayload, match=r"\(64, 64\)"):
        Decoder([layout]).decode(layout, memoryview(large))
    three = codecs.jpeg_encode(PIXELS[[0, 1, 0]], 80)
    with pytest.raises(DamagedPayload, match="of images"):
        Decoder([layout]).decode(layout, memoryview(three))


@pytest.mark.parametrize("name", ["float32+zstd", "int8+lz4"])
def test_a_length_beyond_the_bound_is_refused_before_it_is_received(name: str) -> None:
    layout = known(name)["0"]
    allowed = Allowed([layout])
    for size in (1, layout.payload_bytes):
        allowed(layout.header(0, size))
    for size in (0, layout.payload_bytes + 1):
        with pytest.raises(BadFrame, match="at most"):
            allowed(layout.header(0, size))
    plain = known(name.partition("+")[0])["0"]
    with pytest.raises(BadFrame):
        allowed(plain.header(0))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=300, max_size=300))
def test_incompressible_values_stay_within_the_bound(values: list[float]) -> None:
    sent = torch.tensor(values).view(2, 6, 5, 5)
    for name in ("float32+zstd", "float32+lz4"):
        layout = known(name)["0"]
        assert len(Encoder({"0": layout}).encode("0", sent)) <= layout.payload_bytes
        assert layout.raw_bytes == prod(sent.shape) * 4


@pytest.mark.parametrize(
    "name", ["float64", "jpeg", "jpeg:0", "jpeg:101", "jpeg:50+zstd", "int8", "uint8+gzip", ""]
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        EncodingSpec(input=name)
    with pytest.raises(ValueError, match="expected float32"):
        EncodingSpec(features=f"{name}!")


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [parse_input("jpeg:75"), parse_features("int8+zstd")]
    assert missing(both, ["lz4"]) == {"jpeg:75": "Pillow", "int8+zstd": "zstandard"}
    assert missing(both, codecs.importable()) == {}
    assert missing([Encoding("uint8", "uint8", None, None)], []) == {}
    monkeypatch.setitem(codecs.MODULES, "zstd", "no_such_module_here")
    with pytest.raises(UserError, match="pip install zstandard"):
        Encoder(known("int8+zstd"))
    assert "zstd" not in codecs.importable()


def test_a_view_of_pinned_memory_is_that_memory_and_keeps_it() -> None:
    tensor = torch.arange(100, dtype=torch.uint8)
    kept = weakref.ref(tensor)
    view = bytes_of(tensor)
    tensor[3] = 77
    assert (len(view), view[3], view.readonly) == (100, 77, False)
    part = view[40:]
    part[0] = 5
    assert tensor[40] == 5
    del tensor, view
    gc.collect()
    assert kept() is not None
    assert tensor_view(part, Dtype.UINT8, (2, 30))[0, 0] == 5


def test_buffers_are_pinned_in_a_process_that_uses_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def empty(size: int, **how: object) -> Tensor:
        asked.append(how)
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch, "empty", empty)
    assert [len(aligned_buffer(size)) for size in (0, 10)] == [0, 10]
    assert asked == [{"dtype": torch.uint8, "pin_memory": True}] * 2
