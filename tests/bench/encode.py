"""Time each encoding of one intermediate tensor there and back, on one core.

The tensor has 300,000 float32 elements (1.2 MB), half of them zero, as behind a ReLU.
``python -m tests.bench.encode`` prints a table and writes ``bench-encode.json``:
``{"<encoding>": {"encode_us", "decode_us", "bytes", "n"}}``, medians.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import torch

from testbed.encodings import COMPRESSIONS, FEATURES, parse_features
from testbed.worker.encoding import Decoder, Encoder
from testbed.worker.layout import Layout

SHAPE = (1, 30, 100, 100)
WARM, TURNS = 10, 100


def measure(name: str, tensor: torch.Tensor) -> dict[str, float]:
    """Medians of encoding and decoding, in turns, as in a run."""
    layout = Layout("0", 0, parse_features(name), (tuple(tensor.shape),))
    encoder, decoder = Encoder({"0": layout}), Decoder([layout])
    encode_us, decode_us, size = [], [], 0
    for turn in range(WARM + TURNS):
        begun_ns = perf_counter_ns()
        payload = encoder.encode("0", tensor)
        encoded_ns = perf_counter_ns()
        received = memoryview(bytearray(payload))
        size = len(received)
        decoding_ns = perf_counter_ns()
        decoder.decode(layout, received)
        if turn >= WARM:
            encode_us.append((encoded_ns - begun_ns) / 1e3)
            decode_us.append((perf_counter_ns() - decoding_ns) / 1e3)
    found = {"encode_us": median(encode_us), "decode_us": median(decode_us)}
    return {**found, "bytes": size, "n": TURNS}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tensor = torch.relu(torch.randn(SHAPE))
    names = [
        f"{element}{c}" for element in FEATURES for c in ("", *("+" + c for c in COMPRESSIONS))
    ]
    document = {name: measure(name, tensor) for name in names}
    Path("bench-encode.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{'encoding':<18}{'encode µs':>11}{'decode µs':>11}{'bytes':>11}")
    for name, row in document.items():
        print(f"{name:<18}{row['encode_us']:11.0f}{row['decode_us']:11.0f}{row['bytes']:11.0f}")


if __name__ == "__main__":
    main()
