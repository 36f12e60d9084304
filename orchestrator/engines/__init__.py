"""Engines on a cluster: where they start, who uses them, how they end, what they are given.

driver ─ Fleet ─► queue:     whose turn is it, where there is no room for all?
            │     placement: what should there be? ─► starts, greets, provides, ends engines
            │     watchdog:  does one hang?
            ▼
         roster (a file) ─► thin trials choose an engine; `latentune status` says why they wait
"""
