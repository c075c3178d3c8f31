"""Torch in, numbers out: no hooks and no rules."""
