"""Searches on a cluster, by Ray's Jobs API: submit, look after, fetch.

    here                                   head of the cluster
    SEARCH.yaml ─► submission ─ package ─► entry ─► driver.run ─► engines
                   (checked, planned)        │
    SubmittedSearch ◄── cluster ◄── log ─────┘ progress and result as marked lines

A search is a job; its submission id is the search's name and a number that counts up, so that
submitting again goes on with the same search. All that lasts is the head's: its
LATENTUNE_HOME, its MLflow, its environment.
"""
