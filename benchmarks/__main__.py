"""Run the CPU benchmarks: `python -m benchmarks`."""

from __future__ import annotations

from benchmarks import decoding, fusion

fusion.main()
decoding.main()
