"""Run the CPU benchmarks: `python -m benchmarks`."""

from __future__ import annotations

from benchmarks import decoding, evaluation, fusion, prefix

fusion.main()
decoding.main()
evaluation.main()
prefix.main()
