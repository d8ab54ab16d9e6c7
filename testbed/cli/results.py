"""``testbed verify|compare|reproduce|bundle|watch``: what was measured, checked and repeated."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.cli.campaign import tell_verdict, verdict
from testbed.cli.common import (
    LOCAL_INVENTORY,
    RESULTS,
    Output,
    add_verb,
    file_to_write,
    folder_to_write,
)
from testbed.errors import UserError
from testbed.records import read_json


def verify(args: argparse.Namespace, out: Output) -> int:
    """Check that a campaign's folder or bundle is whole and as it was written."""
    from analysis.audit import audit
    from testbed.orchestrator.bundle import unpacked

    if args.folder.is_file():
        with unpacked(args.folder) as (folder, faults):
            found = audit(folder)
            found.folder, found.faults = str(args.folder), [*faults, *found.faults]
    else:
        found = audit(args.folder)

    def words() -> None:
        print(f"{found.runs} runs, {found.records} records, {found.bytes / 1e6:.1f} MB")
        for note in found.notes:
            print(f"note: {note}")
        for fault in found.faults:
            print(f"FAULT: {fault}")
        print(f"{len(found.faults)} faults" if found.faults else "whole, and as it was written")

    out.document(asdict(found), words)
    return 1 if found.faults else 0


def compare(args: argparse.Namespace, out: Output) -> int:
    """Compare campaigns with the first of them: differences with intervals."""
    from analysis.compare import compare as compared

    if len(args.campaigns) < 2:
        raise UserError("compare: expected two campaigns or more, got one")
    found = compared(args.campaigns, args.out, args.force)
    page = Path(found["out"]) / "comparison.html"
    words = page.with_suffix(".md")
    out.document(found, lambda: print(f"{words.read_text()}\ncomparison: {page}"))
    return 1 if found["forced"] else 0


def reproduce(args: argparse.Namespace, out: Output) -> int:
    """Run a campaign's experiment again and hold its figures against the first ones."""
    from analysis.compare import headline_holds, load, reproduced
    from analysis.report import write_report
    from testbed.config import load_inventory
    from testbed.orchestrator.campaign import Campaign
    from testbed.orchestrator.inputs import kept
    from testbed.orchestrator.terminal import Logged, outliving_terminal
    from testbed.progress import Display

    experiment = kept(args.campaign)
    before = read_json(args.campaign / "campaign.json")
    files = {**before.get("files", {}), "inventory": str(args.inventory)}
    with Display(out.console) as display:
        listener = Logged(display)
        inventory = load_inventory(args.inventory)
        again = Campaign(experiment, inventory, args.results, listener, files=files)
        listener.keep_in(again.folder)
        if before.get("archive_sha256") != again.prepared.archive_sha256:
            listener.stage("the model archive is not the same (another torch, or other weights)")
        with outliving_terminal():
            again.run()
    report = write_report(again.folder)
    frame = reproduced(load(args.campaign, "before"), load(again.folder, "again"))
    frame.to_csv(report.parent / "reproduced.csv", index=False)
    holds = headline_holds(frame)
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")

    def words() -> None:
        for row in records:
            inside = {2: "each in the other's interval", 1: "in one interval", 0: "APART"}
            print(
                f"{row['link']} {row['load']} {row['figure']}: {row['value_a']:.3g} before, "
                f"{row['value_b']:.3g} again: {inside[row['a_in_b'] + row['b_in_a']]}"
            )
        print("reproduced" if holds else "NOT reproduced: some figures lie apart")
        tell_verdict(verdict(report))
        print(f"campaign: {again.folder}\nreport: {report}")

    document = {"campaign": str(again.folder), "report": str(report), "reproduced": holds}
    out.document({**document, "verdict": verdict(report), "figures": records}, words)
    return 0 if holds and verdict(report)["trusted"] else 1


def bundle(args: argparse.Namespace, out: Output) -> int:
    """Put a campaign into one archive: records, report, packages, source revision, commands."""
    from testbed.orchestrator.bundle import write_bundle

    target = args.out or args.campaign.resolve().with_suffix(".tar.gz")
    path = write_bundle(args.campaign, target)
    size = path.stat().st_size
    document = {"bundle": str(path), "bytes": size}
    out.document(document, lambda: print(f"bundle: {path} ({size / 1e6:.1f} MB)"))
    return 0


def watch(args: argparse.Namespace, out: Output) -> int:
    """Show a running campaign from its files, until it ends."""
    from testbed.orchestrator.store import newest_campaign
    from testbed.orchestrator.watch import view

    folder = args.campaign or newest_campaign(args.results)
    said: tuple[str, ...] = ()
    while True:
        seen = view(folder)
        if out.as_json and (args.once or seen.state != "running"):
            out.document(asdict(seen), lambda: None)
        elif not out.as_json:
            for line in (line for line in seen.log if line not in said):
                print(line)
            said = seen.log
            told = f"{seen.state}: {seen.done} of {seen.planned} runs"
            if seen.run and seen.median_ms is not None:
                told += f"; {seen.run}: {seen.queries} queries, split {seen.split}, "
                told += f"median {seen.median_ms:.1f} ms"
            end = "\r" if sys.stdout.isatty() and seen.state == "running" else "\n"
            print(told, end=end, flush=True)
        if args.once or seen.state != "running":
            return 0 if seen.state in ("running", "complete") else 1
        time.sleep(1.0)


def add_verbs(verbs: Any) -> None:
    """Add ``verify``, ``compare``, ``reproduce``, ``bundle`` and ``watch``."""
    verb = add_verb(verbs, "verify", verify)
    verb.add_argument("folder", type=Path, help="a campaign's folder, a run's, or a bundle")
    verb = add_verb(verbs, "compare", compare)
    verb.add_argument("campaigns", type=Path, nargs="+", help="campaign folders, the first is A")
    verb.add_argument(
        "--out", type=folder_to_write, default=Path("comparison"), help="where to write"
    )
    verb.add_argument("--force", action="store_true", help="compare what is not comparable")
    verb = add_verb(verbs, "reproduce", reproduce)
    verb.add_argument("campaign", type=Path, help="the campaign to repeat")
    verb.add_argument("-i", "--inventory", type=Path, default=LOCAL_INVENTORY)
    verb.add_argument(
        "--results", type=folder_to_write, default=RESULTS, help="where to keep results"
    )
    verb = add_verb(verbs, "bundle", bundle)
    verb.add_argument("campaign", type=Path)
    verb.add_argument(
        "--out", type=file_to_write(), help="default: the campaign's name with .tar.gz"
    )
    verb = add_verb(verbs, "watch", watch)
    verb.add_argument("campaign", type=Path, nargs="?", help="campaign folder (default: newest)")
    verb.add_argument("--results", type=Path, default=RESULTS)
    verb.add_argument("--once", action="store_true", help="look once")
