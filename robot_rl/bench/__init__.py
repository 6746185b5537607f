"""Benchmarks of learning, each beside a named reference in the same run (`robot-rl bench`)."""
