"""Load on a running deployment, and how quick the answers were: ``calibration/latency.py`` drives it.

mix, trace ─► schedule ─► drive over a door ─► records ─► run ─► measurement
"""
