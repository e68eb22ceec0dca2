"""Checkpoints in and out: Hugging Face folders, PEFT adapters, tokenizers."""
