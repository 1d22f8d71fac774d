"""What is remembered between runs: digests, objects, traces, and the judge of hits and misses."""
