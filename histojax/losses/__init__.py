"""Losses: pure, keyword-only, unreduced."""
