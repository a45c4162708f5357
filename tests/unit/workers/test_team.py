"""Members of a team in threads: they meet, take turns, and learn of one that has gone."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from free_ports import free_ports

from mpt.errors import ConfigurationError
from mpt.workers import ALONE, Cluster, Team, WorkerLost, assemble, channel

SETTINGS = {"seed": 1, "model._target_": "mlp"}


def clusters(count):
    members = tuple(("worker", i, f"127.0.0.1:{p}") for i, p in enumerate(free_ports(count)))
    return [Cluster(members, rank, "TF_CONFIG") for rank in range(count)]


def each(members, act):
    """What `act(member, rank)` gives, or raises, at each, all at the same time."""

    def caught(rank):
        try:
            return act(members[rank], rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(caught, range(len(members))))


def team(count):
    return each(clusters(count), lambda cluster, _: assemble(cluster, SETTINGS, 10))


def close(members):
    for member in members:
        if isinstance(member, Team):
            member.leave("the test is over")


def part(members):
    ranks = list(range(len(members)))
    assert each(members, lambda member, rank: member.part(rank)) == [ranks] * len(members)


def test_values_come_to_all_in_the_order_of_ranks():
    members = team(3)
    assert [member.rank for member in members] == [0, 1, 2]
    array = np.arange(6, dtype="float16").reshape(2, 3)
    for turn in range(20):
        sent = each(members, lambda m, rank, t=turn: m.exchange({"rank": rank, "x": array + t}))
        for received in sent:
            assert [value["rank"] for value in received] == [0, 1, 2]
            assert all(np.array_equal(value["x"], array + turn) for value in received)
            assert received[0]["x"].dtype == np.float16
    assert each(members, lambda m, rank: m.any(rank == 1, False)) == [(True, False)] * 3
    part(members)


def test_one_alone_waits_for_nobody():
    assert ALONE.exchange({"a": 1}) == [{"a": 1}]
    assert ALONE.any(True, False) == (True, False)
    ALONE.same("it", 1, "seed")
    assert ALONE.part(75) == [75]
    (cluster,) = clusters(1)
    assert assemble(cluster, SETTINGS, 1).size == 1


def test_other_settings_are_told_to_all():
    def act(cluster, rank):
        return assemble(cluster, {**SETTINGS, "seed": 2} if rank == 2 else SETTINGS, 10)

    for error in each(clusters(3), act):
        assert isinstance(error, ConfigurationError)
        assert "worker 2 of 3" in error.message
        assert "seed is 1 at the chief and 2 there" in error.message


def test_values_that_must_be_the_same_are():
    members = team(2)
    assert each(members, lambda m, _: m.same("The data", "abc", "dataset")) == [None] * 2
    for error in each(members, lambda m, rank: m.same("The data", rank, "dataset")):
        assert isinstance(error, ConfigurationError)
        assert "The data differs: worker 1 of 2" in error.message
    part(members)


def test_one_that_does_not_come_is_named():
    chief, second, _ = clusters(3)
    found = each([chief, second], lambda cluster, _: assemble(cluster, SETTINGS, 1.0))
    assert "worker 2 of 3" in found[0].message
    assert "did not come: connection refused" in found[0].message
    assert "did not come" in found[1].message  # told by the chief, or by its own clock


def test_a_chief_that_does_not_come_is_told():
    with pytest.raises(ConfigurationError, match="The chief did not come"):
        assemble(clusters(2)[1], SETTINGS, 0.5)


def test_a_stranger_at_a_workers_door_is_turned_away():
    pair = clusters(2)
    port = int(pair[1].addresses[1].rpartition(":")[2])
    with ThreadPoolExecutor(2) as pool:
        worker = pool.submit(assemble, pair[1], SETTINGS, 10)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\xff" * 64):
            for _ in range(100):
                try:
                    stranger = socket.create_connection(("127.0.0.1", port))
                    break
                except OSError:
                    time.sleep(0.02)
            stranger.sendall(words)
            stranger.close()
        members = [pool.submit(assemble, pair[0], SETTINGS, 10).result(), worker.result()]
    part(members)


def test_a_stranger_at_a_workers_address_is_told(monkeypatch):
    monkeypatch.setattr("mpt.workers.meeting.STRANGER_SECONDS", 0.5)
    pair = clusters(2)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(pair[1].addresses[1].rpartition(":")[2])))
        other.listen()

        def answer():
            while True:
                try:
                    connection, _ = other.accept()
                except OSError:
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ConfigurationError, match="not a worker of this training"):
            assemble(pair[0], SETTINGS, 30)


def test_lists_of_workers_that_differ_are_told():
    ours, (other, _) = clusters(2), clusters(2)
    swapped = Cluster((other.members[0], ours[0].members[1]), 1, "TF_CONFIG")
    found = each([ours[0], swapped], lambda cluster, _: assemble(cluster, SETTINGS, 5))
    assert "another list of workers" in found[0].message
    assert "another list of workers" in found[1].message


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_the_others_learn_of_one_that_has_gone(gone):
    members = team(3)
    told = [[], [], []]
    for member, list_ in zip(members, told, strict=True):
        member.when_lost(list_.append)
    members[gone]._lost = "it is dead, and says nothing"
    # As the kernel does where its process is killed.
    for each_channel in members[gone]._channels.values():
        each_channel._connection.shutdown(socket.SHUT_RDWR)
    left = [member for member in members if member.rank != gone]
    start = time.monotonic()
    for error in each(left, lambda m, _: m.exchange(1)):
        assert isinstance(error, WorkerLost)
        assert f"worker {gone} of 3" in str(error)
        assert "has gone" in str(error)
    assert time.monotonic() - start < 5
    assert [len(told[m.rank]) for m in left] == [1, 1]
    close(members)


@pytest.mark.parametrize("leaving", [0, 1])
def test_one_that_leaves_says_why(leaving):
    members = team(3)
    members[leaving].leave("its disk is full")
    for member in members:
        if member.rank != leaving:
            assert member.learn(5) is not None
            assert f"worker {leaving} of 3" in member.lost
            assert "ended: its disk is full" in member.lost
    close(members)


def test_a_member_that_is_silent_is_taken_for_gone(monkeypatch):
    monkeypatch.setattr(channel, "ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(channel, "SILENT_SECONDS", 0.5)
    chief, worker = team(2)
    time.sleep(1.0)
    assert chief.lost is None  # they say that they are alive
    worker._channels[0]._ending.set()  # as a machine that was switched off
    assert "nothing was heard of it" in chief.learn(5)
    close([chief, worker])


def test_who_ends_with_the_others_is_not_lost():
    for _ in range(20):
        members = team(2)
        part(members)
        time.sleep(0.01)
        assert [member.lost for member in members] == [None, None]


def test_all_who_are_there_are_told_of_a_member_that_does_not_fit():
    trio = clusters(3)
    other = Cluster((*trio[1].members[:2], ("worker", 2, "127.0.0.1:9")), 1, "TF_CONFIG")
    start = time.monotonic()
    found = each([trio[0], other, trio[2]], lambda cluster, _: assemble(cluster, SETTINGS, 20))
    for error in found:
        assert isinstance(error, ConfigurationError)
        assert "worker 1 of 3" in error.message
        assert "another list of workers than the chief has for it" in error.message
    assert time.monotonic() - start < 10


def test_who_ends_where_others_go_on_is_lost():
    members = team(2)

    def act(member, rank):
        if rank == 1:
            return member.part(0)
        try:
            return member.exchange([True])
        except WorkerLost as error:
            member.leave(str(error))  # as a run does
            raise

    for error in each(members, act):
        assert isinstance(error, WorkerLost)
        assert "it ended where others went on" in str(error)


def test_a_chief_that_has_done_its_part_needs_nobody():
    members = team(2)
    members[1].leave("it was interrupted")
    assert members[0].learn(5) is not None
    assert members[0].part(0) == [0]


def test_a_refused_input_is_one_at_all():
    members = team(3)
    members[1].leave(ConfigurationError("no such file", where="dataset.path", remedy="look"))
    for rank in (0, 2):
        assert members[rank].learn(5) is not None
        with pytest.raises(
            ConfigurationError, match=r"worker 1 of 3.*ended: no such file"
        ) as found:
            members[rank].exchange(1)
        assert (found.value.where, found.value.remedy) == ("dataset.path", "look")
    close(members)


def test_losses_are_no_matter_once_all_is_done():
    members = team(2)
    told = []
    members[0].when_lost(told.append)
    members[0].unwatch()
    members[1].leave("it is done")
    assert members[0].learn(5) is not None
    assert told == []
    close(members)


def test_a_large_value_may_take_its_time(monkeypatch):
    monkeypatch.setattr(channel, "ALIVE_SECONDS", 0.1)
    value = np.zeros(2**24, np.uint8)
    members = team(2)
    real = channel.packing.loads

    def slow(message):
        time.sleep(0.5 if len(message) > 2**20 else 0)
        return real(message)

    monkeypatch.setattr(channel.packing, "loads", slow)
    for received in each(members, lambda m, _: m.exchange(value)):
        assert [one.nbytes for one in received] == [2**24] * 2
    part(members)
