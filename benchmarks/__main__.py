"""Run the CPU benchmarks: `python -m benchmarks`."""

from __future__ import annotations

from benchmarks import decoding, fusion, prefix

fusion.main()
decoding.main()
prefix.main()
