"""Times the report and ``verify`` on generated campaigns, and says where a bound is not kept.

``python -m tests.bench.report`` makes a campaign of each size in a temporary folder, prints a line
each and writes ``bench-report.json``. Each is measured in a process of its own, so that its peak
memory is its own; processor times are of that process and of the one that draws its figures.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.audit import audit
from analysis.report import write_report
from testbed.orchestrator.store import seal
from testbed.records import sha256_file
from tests.analysis import synthetic as golden

# records → links, trials; six policies each; the bound on dataset and report in seconds.
SIZES = {100_000: (2, 5, 5.0), 1_000_000: (4, 9, 20.0)}
MEMORY_BYTES = 1.5e9
VERIFY_MB_S = 200


def stretch(run: Path, records: int) -> None:
    """Repeat a small run's queries, later and later, until it has so many."""
    lines = [json.loads(line) for line in (run / "queries.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["kind"] == "measured"]
    span_ns = measured[-1]["t_start_ns"] + measured[-1]["e2e_ns"] - measured[0]["t_start_ns"]
    rng = random.Random(run.name)
    with (run / "queries.jsonl").open("w") as stream:
        for number in range(records):
            lap, place = divmod(number, len(measured))
            record = dict(measured[place])
            record["query"] = number
            record["e2e_ns"] = round(record["e2e_ns"] * rng.uniform(0.95, 1.05))
            for key in ("t_due_ns", "t_start_ns"):
                record[key] += lap * span_ns
            stream.write(json.dumps(record, separators=(",", ":")) + "\n")
    for name, changes in (
        ("plan.json", {"duration_ns": span_ns * (1 + records // len(measured))}),
        ("manifest.json", {}),
    ):
        document: dict[str, Any] = json.loads((run / name).read_text()) | changes
        if name == "manifest.json":
            document["device"]["queries"] = document["counts"]["queries"] = records
            document["checksums"] = {f: sha256_file(run / f) for f in document["checksums"]}
        (run / name).write_text(json.dumps(document))


def generate(root: Path, records: int) -> None:
    """A campaign of so many measured queries."""
    links, trials, _ = SIZES[records]
    spec = golden.Synthetic(links=tuple(f"l{n}" for n in range(links)), duration_s=6)
    golden.write_campaign(root, replace(spec, trials=trials))
    runs = sorted(path.parent for path in root.glob("*/plan.json"))
    for run in runs:
        stretch(run, records // len(runs))
    seal(root, "complete")


def measure(root: Path) -> dict[str, float]:
    """Times and peak memory of dataset and report, and the speed of ``verify``."""
    begun = time.perf_counter()
    page = write_report(root)
    report_s = time.perf_counter() - begun
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    begun = time.perf_counter()
    found = audit(root)
    verify_s = time.perf_counter() - begun
    if found.faults:
        raise SystemExit(f"the generated campaign has faults: {found.faults[:3]}")
    return {
        "records": found.records,
        "report_s": report_s,
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in used),
        "peak_bytes": used[0].ru_maxrss * 1024,
        "verify_mb_s": found.bytes / 1e6 / verify_s,
        "page_bytes": page.stat().st_size,
    }


def main() -> None:
    """Print one line a size; exit 1 where a bound is not kept."""
    kept, document = True, {}
    for records, (_, _, bound_s) in SIZES.items():
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "campaign"
            generate(root, records)
            argv = [sys.executable, "-m", "tests.bench.report", str(root)]
            found = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        bounds = {"report_s": bound_s, "peak_bytes": MEMORY_BYTES, "verify_mb_s": VERIFY_MB_S}
        document[records] = {**found, "bounds": bounds}
        print(
            f"{records} queries: report {found['report_s']:.1f} s (bound {bound_s:.0f}, "
            f"processor {found['cpu_s']:.1f} s), peak {found['peak_bytes'] / 1e9:.2f} GB (bound "
            f"{MEMORY_BYTES / 1e9}), page {found['page_bytes'] / 1e6:.2f} MB, "
            f"verify {found['verify_mb_s']:.0f} MB/s (bound {VERIFY_MB_S})",
            flush=True,
        )
        kept &= found["report_s"] < bound_s and found["peak_bytes"] < MEMORY_BYTES
        kept &= found["verify_mb_s"] > VERIFY_MB_S
    Path("bench-report.json").write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]))))
    else:
        main()
