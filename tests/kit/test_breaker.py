"""Who asks a store that hangs, and who is told at once."""

from collections.abc import Callable

import pytest

from kilowatch.kit.breaker import Breaker


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestBreaker:
    @pytest.fixture
    def seconds(self) -> Seconds:
        return Seconds()

    @pytest.fixture
    def breaker(self, seconds: Seconds) -> Breaker:
        return Breaker(OSError, refusal=lambda: ConnectionRefusedError("told at once"), clock=seconds)

    @pytest.fixture
    def fail(self, breaker: Breaker, seconds: Seconds) -> Callable[[float], None]:
        def fail(after_s: float) -> None:
            with pytest.raises(OSError, match="it hung"), breaker.attempt():
                seconds.now += after_s
                raise OSError("it hung")

        return fail

    def test_lets_everyone_try_where_attempts_fail_at_once(
        self, breaker: Breaker, fail: Callable[[float], None]
    ) -> None:
        for _ in range(3):
            fail(0.1)
        breaker.check()

    def test_tells_all_at_once_for_a_second_after_one_that_took_long(
        self, breaker: Breaker, seconds: Seconds, fail: Callable[[float], None]
    ) -> None:
        fail(20)
        seconds.now += 0.9
        with pytest.raises(ConnectionRefusedError), breaker.attempt():
            pass
        seconds.now += 0.1
        fail(20)

    def test_lets_one_try_at_a_time_until_it_succeeds(
        self, breaker: Breaker, seconds: Seconds, fail: Callable[[float], None]
    ) -> None:
        fail(20)
        seconds.now += 1
        with breaker.attempt(), pytest.raises(ConnectionRefusedError), breaker.attempt():
            pass
        with breaker.attempt(), breaker.attempt():
            pass
