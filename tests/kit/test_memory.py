"""What was looked up is kept for one state of the database, and within bounds."""

import tracemalloc

from kilowatch.kit.memory import Memory


class TestMemory:
    def test_is_of_one_state_alone(self) -> None:
        memory = Memory()
        memory.keep(1, "who", "ada")
        assert (memory.find(1, "who"), memory.find(2, "who"), memory.find(1, "what")) == ("ada", None, None)
        memory.keep(2, "what", "roof")
        assert (memory.find(2, "what"), memory.find(2, "who"), memory.find(1, "who")) == ("roof", None, None)

    def test_is_bounded_though_the_questions_are_longer_than_their_answers(self) -> None:
        """A request may name 50,000 metrics that are not there; to answer that takes no more than an empty list."""
        memory = Memory()
        tracemalloc.start()
        for number in range(100):
            memory.keep(1, (number, tuple(f"{number}/{name}" for name in range(10_000))), [])
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 30_000_000  # of all it would be 70 MB
