from node.session.deadline import FLOOR_S, AdaptiveDeadline


def test_before_anything_was_seen_the_session_bound_holds():
    assert AdaptiveDeadline(60).seconds() == 60


def test_the_deadline_follows_what_peers_needed():
    deadline = AdaptiveDeadline(60)
    for wait in (1.0, 1.0, 1.2, 0.8):
        deadline.observe(wait)
    assert 1.0 + FLOOR_S <= deadline.seconds() < 2.0 + FLOOR_S


def test_one_straggler_does_not_move_it_much():
    deadline = AdaptiveDeadline(60)
    for wait in (1.0, 1.0, 1.0, 1.0, 50.0):
        deadline.observe(wait)
    assert deadline.seconds() < 4


def test_it_never_exceeds_the_session_bound():
    deadline = AdaptiveDeadline(5)
    deadline.observe(100.0)
    assert deadline.seconds() == 5


def test_waits_in_vain_make_it_longer_and_others_shorter_again():
    deadline = AdaptiveDeadline(60)
    deadline.observe(1.0)
    usual = deadline.seconds()
    deadline.missed()
    deadline.missed()
    assert deadline.seconds() == 4 * usual
    for _ in range(10):
        deadline.missed()
    assert deadline.seconds() == 60
    for _ in range(5):
        deadline.met()
    assert deadline.seconds() == usual
