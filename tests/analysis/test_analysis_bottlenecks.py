"""The page of bottlenecks: whole, in one file, its figures small enough for paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from analysis.bottlenecks import write_page


def document(model: str, ratios: list[float]) -> dict[str, Any]:
    points = [
        {
            "index": n,
            "ratio": ratio,
            "natural": ratio < 1,
            "compressive": ratio < min([1.0, *ratios[:n]]),
        }
        for n, ratio in enumerate(ratios)
    ]
    natural = sum(ratio < 1 for ratio in ratios)
    counts = {"split_points": len(points), "natural": natural, "compressive": 2}
    return {"model": model, "resolution": 224, "split_points": points, "counts": counts}


def test_page_is_one_file_and_tells_every_network(tmp_path: Path) -> None:
    found = [document(f"net{n}", [1.2, 0.5, 0.6, 0.2083]) for n in range(16)]
    found.append(document("timm:plain", [1.0, 1.005]))
    write_page(found, "many", "Seventeen of them.", tmp_path / "new" / "page.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    html = (tmp_path / "new" / "page.html").read_text()
    assert html.count('src="data:image/png;base64,') == html.count("<img ") == 2
    assert "href=" not in html
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).split())
    assert "In 16 of 17 networks" in text
    assert "net0 224 1: 0.500 · 3: 0.208 4 3 net1" in text.replace("\u00a0", " ")
    assert "timm:plain 224 none 2 0" in text
