"""Thousands of damaged and odd media files through `small` itself, those of test_odd_media.py among
them; with more clips, where these lie beside the checkout."""

from __future__ import annotations

from statistics import median

import odd_media
import odd_media_run

ROUNDS = 8  # of every random damage


def test_each_ends_in_a_right_result_or_one_line():
    names = list(odd_media.table(ROUNDS))
    assert len(names) > 3000
    outcomes = odd_media_run.run(ROUNDS, names, model="small")
    print(f"\n{odd_media_run.table_of(outcomes)}\n\n{odd_media_run.leaks(outcomes)}")
    bad = [o for o in outcomes if o.outcome not in ("right", "refused")]
    assert not bad, "\n".join(f"{o.outcome}: {o.name}: {o.told}" for o in bad)
    assert len({o.files for o in outcomes}) == 1
    assert {o.threads for o in outcomes} == {1}


def test_passing_all_files_once_more_takes_no_more_memory():
    names = [*odd_media.table()]
    outcomes = odd_media_run.run(1, names * 3, processes=1)
    # What is freed goes back now and then, so in between it rises: the middle is the level. The
    # first pass brings it there.
    passes = [outcomes[first : first + len(names)] for first in range(0, len(outcomes), len(names))]
    first, second, third = (median(o.memory for o in part) for part in passes)
    print(f"\n{first:.0f}, {second:.0f}, {third:.0f} MB in the middle of three passes")
    assert third < second + 30
