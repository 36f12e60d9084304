"""Run the CPU benchmarks: `python -m benchmarks`."""

from __future__ import annotations

from benchmarks import decoding, evaluation, fusion

fusion.main()
decoding.main()
evaluation.main()
