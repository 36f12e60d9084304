"""What is beneath the ledger: where its study is stored, who may write it, what a crash leaves."""
