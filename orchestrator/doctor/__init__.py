"""`latentune doctor`: whether this machine and a cluster can run searches, and what to do if not.

facts (what a machine says of itself) ─► checks (pure functions) ─► findings, each with its remedy
"""
