"""What a cluster needs beside Ray: an MLflow server with users, backups, a word at the end."""
