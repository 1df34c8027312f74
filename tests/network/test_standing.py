from node.causes import Cause
from node.network.standing import MAX_PEERS, StandingRules, Standings, TokenBucket, TokenBuckets


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_peer_that_misbehaves_is_banned_for_a_while():
    clock = Clock()
    standings = Standings(clock, StandingRules(ban_at=-100, ban_seconds=600, half_life=300))
    standings.penalize("mallory", 60, Cause.CORRUPT_PAYLOAD)
    assert not standings.is_banned("mallory")
    standings.penalize("mallory", 60, Cause.CORRUPT_PAYLOAD)
    assert standings.is_banned("mallory")
    assert not standings.is_banned("alice")
    clock.now = 601
    assert not standings.is_banned("mallory")
    assert standings.refused == {Cause.CORRUPT_PAYLOAD: 2}


def test_faults_are_forgiven_with_time():
    clock = Clock()
    standings = Standings(clock, StandingRules(half_life=300))
    standings.penalize("alice", 80, Cause.TOO_SLOW)
    clock.now = 300
    assert standings.score("alice") == -40
    assert standings.score("bob") == 0


def test_the_number_of_peers_remembered_is_bounded():
    standings = Standings(Clock())
    for n in range(MAX_PEERS + 100):
        standings.penalize(f"peer {n}", 1, Cause.BAD_REQUEST)
    assert len(standings.scores()) == MAX_PEERS


def test_a_crowd_of_new_peers_lifts_no_ban():
    standings = Standings(Clock())
    standings.penalize("mallory", 200, Cause.CORRUPT_PAYLOAD)
    for n in range(MAX_PEERS + 100):
        standings.penalize(f"peer {n}", 1, Cause.BAD_REQUEST)
    assert standings.is_banned("mallory")
    assert standings.score("peer 0") == 0
    assert len(standings.scores()) == MAX_PEERS


def test_a_token_bucket_allows_a_burst_and_then_a_rate():
    clock = Clock()
    bucket = TokenBucket(clock, rate=2, burst=3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now = 1
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_each_source_has_a_bucket_and_the_one_that_asked_longest_ago_is_forgotten():
    buckets = TokenBuckets(Clock(), rate=1, burst=1, count=2)
    assert [buckets.take(source) for source in ("old", "new", "old")] == [True, True, False]
    assert buckets.take("third"), "in the place of `new`, which asked before `old` did"
    assert not buckets.take("old")
    assert buckets.take("new"), "forgotten, so it starts anew"
