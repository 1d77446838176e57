"""Who holds an engine, and when it closes."""

from hypothesis import given
from hypothesis import strategies as st

from aloe.engines.lease import LEASE_S, Users

STEPS = st.lists(
    st.tuples(
        st.floats(0, 2 * LEASE_S),
        st.sampled_from("abc"),
        st.sampled_from(["renew", "leave", "look", "call"]),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_it_is_open_while_somebody_has_renewed_in_time_and_closed_for_good(steps):
    now, users, until = 0.0, Users(0.0), {"": LEASE_S}
    closed = False
    for seconds, user, step in steps:
        now += seconds
        if step == "renew":
            joined = users.renew(user, now)
            assert joined is not closed
            if joined:
                until.pop("", None)
                until[user] = now + LEASE_S
        elif step == "call":
            users.called(now)
            if not closed:
                until[""] = now + LEASE_S
        elif step == "leave":
            until.pop(user, None)
            until.pop("", None)
            closed = closed or not any(end > now for end in until.values())
            assert users.leave(user, now) is closed
        else:
            closed = closed or not any(end > now for end in until.values())
            assert users.nobody(now) is closed


def test_who_is_killed_holds_it_no_longer_than_a_lease():
    users = Users(0.0)
    assert users.renew("killed", 1.0)
    assert users.renew("alive", 2.0)
    assert not users.leave("alive", 3.0)  # nobody knows yet that the other is gone
    assert not users.nobody(LEASE_S)
    assert users.nobody(1.0 + LEASE_S)
    assert not users.renew("late", 2.0 + LEASE_S)
