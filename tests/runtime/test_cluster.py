"""Which cluster a call uses, and what is left of it afterwards; Ray itself is played."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from ray_st.runtime.cluster import connection


class Played:
    """Ray, as far as a connection goes."""

    def __init__(self, address: str | None = None, starts: bool = True) -> None:
        self.address, self.alive, self.starts = address, True, starts
        self.inits = 0

    def is_initialized(self) -> bool:
        return self.address is not None

    def init(self, **options: Any) -> None:
        self.inits += 1
        self.address, self.alive = f"local:{self.inits}", True
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # as Ray does

    def shutdown(self) -> None:
        self.address = None

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": self.alive}]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address=self.address)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    def play(played: Played) -> Played:
        monkeypatch.setattr(connection, "ray", played)
        monkeypatch.setattr(connection._Own, "address", None)
        monkeypatch.setattr(connection, "found_address", lambda: None if played.starts else "10.0.0.1:6379")
        monkeypatch.setattr(connection, "check_answers", lambda address: None)
        return played

    return play


def test_a_local_ray_is_started_once_and_stays(play: Any, capsys: Any) -> None:
    played, before = play(Played()), signal.getsignal(signal.SIGTERM)
    for _ in range(3):
        with connection.connected():
            assert played.is_initialized()
        assert signal.getsignal(signal.SIGTERM) is before
    assert (played.inits, played.address) == (1, "local:1")
    assert capsys.readouterr().out.count("started a local Ray") == 1
    played.shutdown()  # the user's
    with connection.connected():
        assert played.address == "local:2"


def test_what_is_interrupted_does_not_go_on_in_a_local_ray(play: Any) -> None:
    played = play(Played())

    def interrupt(error: type[BaseException]) -> None:
        with connection.connected():
            try:
                with connection.connected():  # a call within another, which has things to close first
                    raise error
            finally:
                found.append(played.is_initialized())

    found: list[bool] = []
    with pytest.raises(LookupError):
        interrupt(LookupError)
    assert played.is_initialized()
    with pytest.raises(KeyboardInterrupt):
        interrupt(KeyboardInterrupt)
    assert not played.is_initialized()
    assert found == [True, True]


def test_a_local_ray_that_was_lost_is_replaced(play: Any, capsys: Any) -> None:
    played = play(Played())
    with connection.connected():
        played.alive = False
    with connection.connected():
        assert played.address == "local:2"
    assert "was lost" in capsys.readouterr().out


def test_a_cluster_that_was_there_is_left_again(play: Any, capsys: Any) -> None:
    played = play(Played(starts=False))
    with pytest.raises(KeyError), connection.connected():
        raise KeyError
    assert not played.is_initialized()
    assert capsys.readouterr().out == ""


def test_the_users_connection_is_used_and_stays(play: Any) -> None:
    played = play(Played(address="theirs"))
    with connection.connected():
        pass
    assert (played.inits, played.address) == (0, "theirs")
    played.alive = False
    with pytest.raises(ConnectionError, match=r"theirs.*no live node.*ray\.shutdown"), connection.connected():
        pass


@pytest.mark.parametrize(
    ("played", "inits"), [(Played(), None), (Played("10.0.0.1:1"), 0), (Played(starts=False), 1)]
)
def test_a_cluster_is_used_if_there_is_one_and_none_is_started(
    play: Any, played: Played, inits: int | None
) -> None:
    play(played)
    with connection.connected_if_any() as found:
        assert found == (inits is not None)
    assert played.inits == (inits or 0)
