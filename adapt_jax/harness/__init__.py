"""The model of EleutherAI's lm-evaluation-harness."""
