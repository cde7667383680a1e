"""`make fuzz`: odd messages to a node, half raw and half compressed, and damaged files to all readers.

Exit code 1 if anything failed without an error of this package.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.blob_model import make_blob_model
from tests.fuzz.campaign import Campaign, node_parameters
from tests.fuzz.odd_files import odd_files
from tests.ros.harness import RELIABLE, Peer, running

TRANSPORTS = ("raw", "compressed")


def main() -> int:
    """Run a campaign for each transport and print its result."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000, help="how many, of all transports together")
    parser.add_argument("--seed", type=int, default=0, help="the same seed sends the same messages")
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--files", type=int, default=3000, help="how many damaged files; 0: none")
    parser.add_argument("--log", type=Path, help="write the node's lines to this file")
    arguments = parser.parse_args()
    transports = arguments.transport or list(TRANSPORTS)
    failed = False
    for transport in transports:
        messages = arguments.messages // len(transports)
        with tempfile.TemporaryDirectory() as folder:
            model = make_blob_model(Path(folder) / "blob.onnx", input_size=(70, 56))
            peer = Peer("fuzz", camera_qos=RELIABLE)
            try:
                with running(**node_parameters(model, transport)) as node:
                    try:
                        outcome = Campaign(node, peer, transport, arguments.seed).run(messages, _progress(messages))
                    finally:
                        exit_code = node.stop()
                        if arguments.log:
                            with arguments.log.open("a") as file:
                                file.write("\n".join([f"# {transport}", *node.lines, ""]))
            finally:
                peer.close()
        print(f"\r{transport}, seed {arguments.seed}: {outcome.summary()}")
        complaints = outcome.complaints() + ([f"the node ended with code {exit_code}"] if exit_code else [])
        for complaint in complaints:
            print(f"FAILED: {complaint}")
        failed |= bool(complaints)
    complaints = list(odd_files(arguments.files, arguments.seed))
    print(f"{arguments.files} damaged files, seed {arguments.seed}: {len(complaints)} not refused as they should be")
    for complaint in complaints:
        print(f"FAILED: {complaint}")
    return int(failed or bool(complaints))


def _progress(messages: int):
    def show(sent: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{sent}/{messages}", end="", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
