"""What others may not do to a person, nor a person to themselves by a slip.

The table of abuses, with what becomes of each and the test that shows it, is `docs/security.md`.
"""
