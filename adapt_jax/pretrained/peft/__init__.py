"""Adapters in the format of PEFT: LoRA with all its options, and prompt tuning, in and out."""
