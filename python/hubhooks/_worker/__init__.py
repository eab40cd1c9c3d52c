"""Claim runs, call handlers, and drain at shutdown."""
