"""Benchmarks of the queue: `python -m benchmarks --help`, from the root of the repository.

Every scenario measures us and, in the same run, what raw SQL on the same server can do: the floor.
The ratio of the two says how much the queue itself costs, on any machine.
"""
