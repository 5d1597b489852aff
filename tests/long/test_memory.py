"""Memory does not grow with the length of a file: a quarter of an hour against a minute."""

from __future__ import annotations

from benchmarks.embed import peaks


def test_embedding_a_long_film_takes_no_more_memory():
    (_, short), (_, long) = peaks([60, 900])
    print(f"\n{short:.0f} MB at most for a minute, {long:.0f} MB for a quarter of an hour")
    assert long < short + 100
