"""Receive deliveries over HTTP: checks, responses, the ASGI app."""
