from serve.engine.segmented_lru import WINDOW_S, Recency


def full_of(names: str, recency: Recency) -> Recency:
    for name in names:
        recency.entered(name)
    return recency


def test_the_least_recently_asked_goes_first_and_whoever_was_asked_once_before_all_others() -> None:
    recency = full_of("abcdefgh", Recency())
    recency.asked("ba")
    assert recency.first_to_go() == [*"cdefgh", *"ba"]
    recency.asked("b")
    recency.left("c")
    assert recency.first_to_go() == [*"defgh", *"ab"]
    recency.entered("b")  # a new version of it
    assert recency.first_to_go() == [*"defgh", *"ab"]


def test_a_scan_leaves_the_busy_in_memory() -> None:
    recency = full_of("abcdefghij", Recency())
    recency.asked("abcdefgh")
    for n in range(100):
        recency.left(recency.first_to_go()[0])
        recency.entered(f"scanned-{n}")
    assert recency.first_to_go() == ["scanned-98", "scanned-99", *"abcdefgh"]


def test_those_who_were_busy_long_ago_make_room() -> None:
    recency = full_of("abcde", Recency())
    recency.asked("abcde")
    assert recency.first_to_go() == [*"abcde"]
    for n in range(20):
        recency.left(recency.first_to_go()[0])
        recency.entered(f"new-{n}")
        recency.asked([f"new-{n}"])
    assert not set("abcde") & set(recency.first_to_go())


def test_the_working_set_is_who_was_asked_for_of_late_in_memory_or_not() -> None:
    now = [0.0]
    recency = Recency(clock=lambda: now[0])
    recency.asked("abc")
    now[0] = WINDOW_S
    recency.asked("ad")
    assert recency.working_set() == 4
    now[0] += 1
    assert recency.working_set() == 2
