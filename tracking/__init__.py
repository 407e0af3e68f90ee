"""What is remembered: studies, trials, metrics and resources in MLflow."""
