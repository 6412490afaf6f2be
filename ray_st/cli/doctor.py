"""Find what is wrong with a cluster: versions, network, devices, storage and more, on every node."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_st.runtime.doctor.findings import Finding

FOUND = 1
"""The exit code when there is at least one error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--address",
        help="address of the cluster, such as 10.0.0.1:6379 (default: one that Ray finds, or a local one)",
    )
    parser.add_argument("--storage", help="a folder or URI that every node must be able to write to")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="skip the check that starts workers and forms a process group (takes half a minute)",
    )
    parser.add_argument(
        "--rdma", action="store_true", help="also check that nodes with GPUs have InfiniBand or RoCE"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> None:
    """Print the findings.

    Raises:
        SystemExit: With 1, if one of them is an error.
    """
    from ray_st.runtime.doctor.examine import examine
    from ray_st.runtime.doctor.findings import ERROR, as_plain, worst

    findings = examine(options.address, options.storage, collectives=not options.quick, rdma=options.rdma)
    print(json.dumps(as_plain(findings), indent=2) if options.json else as_text(findings))
    if worst(findings) == ERROR:
        raise SystemExit(FOUND)


def as_text(findings: list[Finding]) -> str:
    """Formats findings for people, one or two lines each.

    Args:
        findings: The findings.
    """
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<15} {finding.where}: {finding.found}")
        if finding.cure:
            lines.append(f"{'':<24} -> {finding.cure}")
    return "\n".join(lines)
