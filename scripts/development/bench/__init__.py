"""Benchmark: the whole way there and back, on a throw-away server, against two baselines.

The floor is what no migration of these rows can beat: ``CREATE TABLE AS`` of the finished rows, then the
same keys, indexes and foreign keys. The one-shot (``one_shot.sql``) is what an engineer would write by hand
for these rows: ``INSERT ... SELECT`` into plain tables with the same keys and indexes, the application locked
out. Both are measured in the same run on the same server. Every time is given as a multiple of the floor:
seconds depend on the machine, ratios hardly do.
"""

from scripts.development.bench.command import main
from scripts.development.bench.measure import DURABLE, ONE_SHOT

__all__ = ["DURABLE", "ONE_SHOT", "main"]
