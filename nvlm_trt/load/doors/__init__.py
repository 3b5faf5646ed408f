"""The ways in: one module a protocol, and ``registry`` that finds it by its address."""
