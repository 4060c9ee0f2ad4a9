from adapterdistill.serve.engine.segmented_lru import WINDOW_S, SegmentedLru


def full_of(names: str, lru: SegmentedLru) -> SegmentedLru:
    for name in names:
        lru.entered(name)
    return lru


def test_the_least_recently_asked_goes_first_and_whoever_was_asked_once_before_all_others() -> None:
    lru = full_of("abcdefgh", SegmentedLru())
    lru.asked("ba")
    assert lru.first_to_go() == [*"cdefgh", *"ba"]
    lru.asked("b")
    lru.left("c")
    assert lru.first_to_go() == [*"defgh", *"ab"]
    lru.entered("b")  # a new version of it
    assert lru.first_to_go() == [*"defgh", *"ab"]


def test_a_scan_leaves_the_busy_in_memory() -> None:
    lru = full_of("abcdefghij", SegmentedLru())
    lru.asked("abcdefgh")
    for n in range(100):
        lru.left(lru.first_to_go()[0])
        lru.entered(f"scanned-{n}")
    assert lru.first_to_go() == ["scanned-98", "scanned-99", *"abcdefgh"]


def test_those_who_were_busy_long_ago_make_room() -> None:
    lru = full_of("abcde", SegmentedLru())
    lru.asked("abcde")
    assert lru.first_to_go() == [*"abcde"]
    for n in range(20):
        lru.left(lru.first_to_go()[0])
        lru.entered(f"new-{n}")
        lru.asked([f"new-{n}"])
    assert not set("abcde") & set(lru.first_to_go())


def test_the_working_set_is_who_was_asked_for_of_late_in_memory_or_not() -> None:
    now = [0.0]
    lru = SegmentedLru(clock=lambda: now[0])
    lru.asked("abc")
    now[0] = WINDOW_S
    lru.asked("ad")
    assert lru.working_set() == 4
    now[0] += 1
    assert lru.working_set() == 2
