"""The groups of the benchmark, one module each: `async def measure(bench) -> list[Figure]`."""
