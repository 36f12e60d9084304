"""The report of a search: why its winner won, as one page without a network, and in Markdown.

ledger, events, result ─► material ─► effects, figures, attention ─► page (HTML)
└► summary (Markdown, note)
"""
