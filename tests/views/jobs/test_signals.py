from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ssgear.errors import Interrupted
from ssgear.views.jobs.signals import NUMBERS, Signals, restored


@pytest.fixture(params=NUMBERS)
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal, whose handlers are as they were afterwards."""
    before = [signal.getsignal(each) for each in NUMBERS]
    yield request.param
    assert [signal.getsignal(each) for each in NUMBERS] == before


def test_a_signal_ends_what_is_being_done(number: int) -> None:
    with pytest.raises(Interrupted) as caught, Signals():
        os.kill(os.getpid(), number)
    assert caught.value.number == number


def test_the_first_one_asks_and_the_second_one_ends(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Signals() as signals, signals.gentle():
        signals.check()
        os.kill(os.getpid(), number)
        assert "once more: at once" in capsys.readouterr().err
        with pytest.raises(Interrupted):
            signals.check()
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.number == signal.SIGTERM


def test_handlers_are_put_back_after_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="within"), restored(signal.SIG_IGN):
        os.kill(os.getpid(), number)  # nobody takes it
        assert signal.getsignal(number) is signal.SIG_IGN
        raise ValueError("within")


def test_another_thread_leaves_handlers_alone(number: int) -> None:
    before = signal.getsignal(number)
    handlers = []

    def work() -> None:
        with restored(signal.SIG_IGN):
            handlers.append(signal.getsignal(number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]
