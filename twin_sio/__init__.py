"""Realtime chat between people and their AI digital twins."""
