"""Benchmark of infrared frames that serve several RGB frames."""
