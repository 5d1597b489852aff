"""Reading ahead and writing behind: order, exceptions, and that stages do run beside each other."""

import threading

import pytest

from perceivio.overlap import Behind, ahead, several_ahead


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "perceivio-" in thread.name}


def test_items_come_in_order_and_few_ahead():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    for i, item in enumerate(ahead(items(), depth=3)):
        assert item == i
        assert len(made) <= i + 4
    assert made == [*range(20)]
    assert list(ahead([])) == []
    assert not threads()


def test_an_item_is_made_while_the_one_before_is_used():
    second = threading.Event()

    def items():
        yield 1
        second.set()
        yield 2

    for item in ahead(items()):
        if item == 1:
            assert second.wait(30)


def test_an_exception_comes_where_its_item_would_have():
    def items():
        yield 1
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(ahead(items()))
    reading = ahead(items())
    assert next(reading) == 1
    reading.close()
    assert not threads()


def test_work_is_done_in_order_beside_what_gives_it():
    done, given = [], threading.Event()

    def first():
        assert given.wait(30)
        done.append("first")

    with Behind() as behind:
        behind.do(first)
        behind.do(lambda: done.append("second"))
        given.set()
    assert done == ["first", "second"]
    assert not threads()


def test_after_a_failure_nothing_more_is_done():
    done = []

    def fail():
        raise OSError("the disk is full")

    def give(depth: int) -> None:
        with Behind(depth) as behind:
            behind.do(fail)
            behind.do(lambda: done.append(depth))

    for depth in (1, 9):
        with pytest.raises(OSError, match="the disk is full"):
            give(depth)
    assert done == []
    assert not threads()


def test_where_the_giver_fails_what_waits_is_dropped():
    done, started, go = [], threading.Event(), threading.Event()

    def first():
        started.set()
        assert go.wait(30)
        done.append(1)

    def give():
        with Behind() as behind:
            behind.do(first)
            behind.do(lambda: done.append(2))
            assert started.wait(30)
            threading.Timer(0.1, go.set).start()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        give()
    assert done == [1]


def test_several_work_at_a_time_and_answer_in_order():
    together = threading.Barrier(3)
    begun = []

    def work(i):
        begun.append(i)
        if i < 3:
            together.wait(timeout=10)
        if i == 17:
            raise ValueError("17")
        return i * i

    answers = several_ahead(work, iter(range(20)), threads=3)
    for i in range(17):
        assert next(answers) == i * i
        assert max(begun) <= i + 7
    with pytest.raises(ValueError, match="17"):
        next(answers)
    assert not threads()
    assert list(several_ahead(work, [], threads=3)) == []
