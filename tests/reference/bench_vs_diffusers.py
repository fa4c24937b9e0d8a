"""Times Pyrograph's training step and diffusers' on a random full-size Stable Diffusion 1.5, in turns.

Run by `cargo xtask bench --vs-diffusers`, and by the bundle's script on a machine without Rust. Prints a report in Markdown:
for each measure the medians of both, and the median, least and greatest of the ratios of the rounds (ours / theirs: less
than 1 is better). A size that one side cannot do, for want of memory or of PyTorch, is told and does not end the rest.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path

THEIRS = Path(__file__).with_name("bench_diffusers.py")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyrograph", type=Path, required=True, help="the program to measure")
    parser.add_argument("--preset", default="sd15", help="our base model; diffusers' is always Stable Diffusion 1.5")
    parser.add_argument("--resolution", type=int, nargs="+", default=[256])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=3, help="steps per round, after two to warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--ours", type=str.split, default=[], help="more arguments of `pyrograph bench`")
    parser.add_argument("--theirs", type=str.split, default=[], help="more arguments of bench_diffusers.py")
    parser.add_argument("--json", type=Path, help="write every measurement to this file, too")
    parser.add_argument("--report", type=Path, help="write the report to this file, too")
    return parser.parse_args()


def measure(command):
    """One run's record, or the last line of what it said when it failed."""
    print("$", *command, file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.lower().startswith("error")] or said
    return {"failed": errors[-1] if errors else f"exit code {done.returncode}"}


def forward_and_backward(run):
    return sum(run["phases"][phase] for phase in ("controlnet", "unet", "backward"))


MEASURES = {
    "step [s]": lambda run: run["step_seconds"],
    "forward + backward [s]": forward_and_backward,
    "optimizer [s]": lambda run: run["phases"]["optimizer"],
    "images per second": lambda run: run["images_per_second"],
    "peak memory, host [GB]": lambda run: (run["peak_bytes"] or 0) / 1e9,
    "memory, device [GB]": lambda run: (run["device_bytes"] or 0) / 1e9,
}


def rows(size, rounds):
    """The lines of the table for one size."""
    sides = [[run for run in side if "failed" not in run] for side in zip(*rounds)]
    for name, value in MEASURES.items():
        ours, theirs = ([value(run) for run in side] for side in sides)
        medians = [f"{statistics.median(side):.3f}" if all(side) and side else "-" for side in (ours, theirs)]
        if medians == ["-", "-"]:
            continue
        ratios = ["-"] * 3
        if "-" not in medians and len(ours) == len(theirs):
            pairs = [mine / other for mine, other in zip(ours, theirs)]
            ratios = [f"**{statistics.median(pairs):.2f}**", f"{min(pairs):.2f}", f"{max(pairs):.2f}"]
        yield f"| {size} | {name} | {' | '.join(medians + ratios)} |"


def machine(records):
    """What was measured on what, from the first runs that worked."""
    for side, name, keys in (
        ("ours", "Pyrograph", ("backend", "device", "precision")),
        ("theirs", "diffusers", ("torch", "device", "precision", "threads")),
    ):
        run = next((record[side] for record in records if "failed" not in record[side]), None)
        if run is not None:
            told = [f"{key} {run[key]}" for key in keys if run.get(key) is not None]
            yield f"- {name}: {', '.join(told)}"
    for record in records:
        for side in ("ours", "theirs"):
            if "failed" in record[side]:
                yield f"- {record['px']} px, batch {record['batch']}, {side}: {record[side]['failed']}"


def publish(args, records, table):
    """Writes what was measured so far; returns the report."""
    header = ["| px | batch | measure | Pyrograph | diffusers | ratio | least | greatest |", "|" + "---|" * 8]
    day = datetime.datetime.now(datetime.timezone.utc).date()
    report = "\n".join([f"Measured on {day}.", "", *dict.fromkeys(machine(records)), "", *header, *table])
    if args.report:
        args.report.write_text(report + "\n")
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n")
    return report


def main():
    args = parse_args()
    records, table = [], []
    for resolution in args.resolution:
        for batch_size in args.batch_size:
            size = ["--resolution", str(resolution), "--batch-size", str(batch_size), "--steps", str(args.steps)]
            size += ["--gradient-checkpointing"] * args.gradient_checkpointing
            ours = [str(args.pyrograph.resolve()), "bench", "--preset", args.preset, "--json", *size, *args.ours]
            theirs = [sys.executable, str(THEIRS), *size, *args.theirs]
            rounds = [(measure(ours), measure(theirs)) for _ in range(args.rounds)]
            records += [{"px": resolution, "batch": batch_size, "ours": o, "theirs": t} for o, t in rounds]
            table += rows(f"{resolution} | {batch_size}", rounds)
            # After each size, so that what was measured outlives a time limit.
            report = publish(args, records, table)
    print(report)
    if not any("failed" not in record["ours"] for record in records):
        raise SystemExit("Pyrograph failed at every size")


if __name__ == "__main__":
    main()
