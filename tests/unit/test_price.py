from aloe.config import Price
from aloe.engines.price import cost_usd


def test_each_kind_of_token_has_its_price():
    price = Price(prompt=2, cached=0.5, completion=8)
    assert cost_usd(price, 1_000_000, 0, 0) == 2
    assert cost_usd(price, 1_000_000, 1_000_000, 0) == 0.5
    assert cost_usd(price, 0, 0, 1_000_000) == 8
    assert cost_usd(price, 3_000_000, 1_000_000, 500_000) == 2 * 2 + 0.5 + 4


def test_cached_tokens_cost_what_the_others_do_unless_they_have_a_price():
    assert cost_usd(Price(prompt=2), 1_000_000, 400_000, 0) == 2
    assert cost_usd(Price(prompt=2, cached=0), 1_000_000, 1_000_000, 0) == 0


def test_without_a_price_a_call_is_free():
    assert cost_usd(Price(), 10, 5, 10) == 0
    assert cost_usd(None, 10, 5, 10) == 0
