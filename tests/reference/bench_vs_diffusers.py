"""Times Pyrograph's training step and diffusers' on a random full-size Stable Diffusion 1.5, in turns.

Run by `cargo xtask bench --vs-diffusers`, and by the bundle's script on a machine without Rust. Prints a table in Markdown:
for each measure the medians of both, and the median, least and greatest of the ratios of the rounds (ours / theirs: less
than 1 is better).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

THEIRS = Path(__file__).with_name("bench_diffusers.py")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyrograph", type=Path, required=True, help="the program to measure")
    parser.add_argument("--resolution", type=int, nargs="+", default=[256])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=3, help="steps per round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--ours", type=str.split, default=[], help="more arguments of `pyrograph bench`")
    parser.add_argument("--theirs", type=str.split, default=[], help="more arguments of bench_diffusers.py")
    parser.add_argument("--json", type=Path, help="write every measurement to this file, too")
    return parser.parse_args()


def measure(command):
    print("$", *command, file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


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


def main():
    args = parse_args()
    records = []
    rows = ["| px | batch | measure | Pyrograph | diffusers | ratio | least | greatest |", "|" + "---|" * 8]
    for resolution in args.resolution:
        for batch_size in args.batch_size:
            size = ["--resolution", str(resolution), "--batch-size", str(batch_size), "--steps", str(args.steps)]
            size += ["--gradient-checkpointing"] * args.gradient_checkpointing
            rounds = []
            for _ in range(args.rounds):
                ours = [str(args.pyrograph), "bench", "--preset", "sd15", "--json", *size]
                theirs = [sys.executable, str(THEIRS), *size]
                rounds.append((measure(ours + args.ours), measure(theirs + args.theirs)))
            records += [{"ours": ours, "theirs": theirs} for ours, theirs in rounds]
            for name, value in MEASURES.items():
                pairs = [(value(ours), value(theirs)) for ours, theirs in rounds]
                if not all(ours and theirs for ours, theirs in pairs):
                    continue
                ratios = [ours / theirs for ours, theirs in pairs]
                medians = [statistics.median(side) for side in zip(*pairs)]
                rows.append(
                    f"| {resolution} | {batch_size} | {name} | {medians[0]:.3f} | {medians[1]:.3f} | "
                    f"**{statistics.median(ratios):.2f}** | {min(ratios):.2f} | {max(ratios):.2f} |"
                )
    print("\n".join(rows))
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
