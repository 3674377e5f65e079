"""Trained models in the box, each in one file that holds all that its use needs."""
