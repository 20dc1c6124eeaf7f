"""Serving a released pair over HTTP: gateway, structure pool, texture pool, decoder."""
