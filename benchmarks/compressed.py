"""1-bit Adam and 0/1 Adam: what they reach, what their exchanges send and keep, and steps over a slow link.

    python benchmarks/compressed.py [--parts convergence exchange link] [--seconds 2400] [--json FILE]
        [--markdown FILE]

Bytes and sums are counted on real ranks. Steps are ratios to AdamW's within one run, over a link of 100
Mbit/s between two network namespaces of this machine, for which the part ``link`` needs root and ``tc``.
Prints what it has as it goes on. Ends with 1 when a goal is missed, a part fails or cannot run, or there is
no time left for it.
"""

from __future__ import annotations

import sys

from compressed_convergence import convergence
from compressed_exchange import exchange
from compressed_link import link
from figures import Part, arguments, measure

PARTS: dict[str, Part] = {"convergence": convergence, "exchange": exchange, "link": link}


def main() -> int:
    """Run the parts that were asked for; 1 where a goal is missed."""
    return measure(PARTS, arguments(__doc__, PARTS, seconds=2400.0).parse_args())


if __name__ == "__main__":
    sys.exit(main())
