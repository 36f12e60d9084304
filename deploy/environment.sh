# What every process on a node is told; the installation puts it at the top of ~/.bashrc, which the launcher's shells read.
export PATH="$HOME/latentune/venv/bin:$PATH"
export RAY_AUTH_MODE=token                          # without the token of ~/.ray/auth_token: 401
export RAY_USAGE_STATS_ENABLED=0
export MLFLOW_DISABLE_TELEMETRY=true
export LATENTUNE_HOME="${LATENTUNE_HOME:-$HOME/latentune/home}"    # study, event log, MLflow: the head's disk
export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-http://127.0.0.1:5000}"
export HF_HOME="${HF_HOME:-$HOME/latentune/huggingface}"           # base models, once per node
