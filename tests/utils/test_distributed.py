"""How processes find each other, and what they tell each other over the control channel."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_server, socket

import pytest

from adapt_jax.cli.main import take_process_options
from adapt_jax.utils import agreement, distributed, process_options
from adapt_jax.utils.control_channel import ControlChannel, Failure
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.process_meeting import MeetingError, meet
from adapt_jax.utils.process_options import ProcessOptions, ProcessPlace, find_place


def find_port() -> int:
    with socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def meet_all(count: int, *, ids: list[int] | None = None, limit: float = 5.0) -> list[object]:
    """What ``meet`` gives to each, or the mistake."""
    address = f"localhost:{find_port()}"

    def one(index: int) -> object:
        try:
            return meet(address, count, index, limit)
        except MeetingError as problem:
            return str(problem)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, ids or range(count)))


@pytest.fixture
def channels() -> list[ControlChannel]:
    """Three processes that have met, and what each was told of failures in ``failures``."""
    made = []
    for index, connections in enumerate(meet_all(3)):
        told: list[Failure] = []
        channel = ControlChannel(connections, index, 3, silence=5, on_failure=told.append)
        channel.told = told
        channel.happened = threading.Event()
        made.append(channel)
    yield made
    for channel in made:
        channel.close()


def test_values_come_back_in_the_order_of_the_processes(channels: list[ControlChannel]):
    with ThreadPoolExecutor() as pool:
        for value in ("é", 3.5, None):
            found = list(pool.map(lambda one, v=value: one.exchange("x", [one.index, v]), channels))
            assert found == [[[0, value], [1, value], [2, value]]] * 3
        found = list(pool.map(lambda one: one.exchange("y", one.index, from_main=True), channels))
        assert found == [[0]] * 3


def test_processes_at_different_places_are_an_error(channels: list[ControlChannel]):
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(one.exchange, f"at {one.index % 2}", 0) for one in channels]
        with pytest.raises(
            RuntimeError, match="process 1 is at 'at 1' while process 0 is at 'at 0"
        ):
            futures[0].result(10)
        for channel in channels:  # the others wait until a failure ends them
            for connection in channel._connections.values():
                connection.has_left = True
        for future in futures[1:]:
            assert future.exception(30) is not None


def test_notes_are_read_in_order_and_before_the_next_exchange(channels: list[ControlChannel]):
    found: list[object] = []
    channels[1].send_note("lines", 1)  # before anybody reads them
    channels[0].read_notes("lines", found.append)
    channels[1].send_note("other", 0)
    channels[1].send_note("lines", 2)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one.exchange("x", None), channels))
    assert found == [1, 2]
    channels[0].read_notes("lines", None)
    channels[2].send_note("lines", 3)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one.exchange("y", None), channels))
    assert found == [1, 2]


def wait_for(told: list[Failure]) -> Failure:
    for _ in range(200):
        if told:
            return told[0]
        threading.Event().wait(0.02)
    raise AssertionError("nothing was told")


def test_a_lost_process_is_named_to_all_others_at_once(channels: list[ControlChannel]):
    lost = channels[1]
    lost._is_closed = True  # of this thread of the test, which is to say nothing
    lost._connections[0].close()
    for channel in (channels[0], channels[2]):
        failure = wait_for(channel.told)
        assert failure.process == 1 and failure.is_lost and failure.code == 75
        assert failure.line.startswith("process 1 of 3 has ended without a word")


def test_a_mistake_reaches_all_others(channels: list[ControlChannel]):
    channels[2].tell(Failure(2, "error: no", 2))
    for channel in channels:  # process 0 answers
        assert wait_for(channel.told) == Failure(2, "error: no", 2)


def test_who_does_not_come_is_named():
    assert meet_all(4, ids=[0, 2], limit=1.0) == ["processes 1 and 3 of 4 did not come"] * 2
    [alone] = meet_all(2, ids=[1], limit=0.6)
    assert str(alone).startswith("process 0 of 2 cannot be reached")


def test_two_processes_with_one_number_are_refused():
    assert "two processes have the process-id 1; each needs its own" in meet_all(3, ids=[0, 1, 1])


def test_a_port_in_use_is_named():
    with create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MeetingError, match=f"port {port} cannot be opened"):
            meet(f"localhost:{port}", 2, 0, 1.0)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*process_options.CLUSTER_SIGNS, "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
    monkeypatch.setattr(process_options, "TPU_DEVICES", ())
    return monkeypatch


def test_a_single_host_starts_nothing(no_cluster: pytest.MonkeyPatch):
    assert not distributed.start()
    assert not distributed.start(ProcessOptions("localhost:1", "1", "0"))
    no_cluster.setenv("SLURM_JOB_ID", "7")  # a job, but no step of several tasks
    assert not distributed.start()
    assert distributed.num_processes() == 1 and distributed.is_main_process()
    assert distributed.gather("x", 3) == [3] and distributed.from_main("x", 3) == 3
    assert distributed.take_share([4, 5]) == {4, 5}
    agreement.agree("configuration", {"a": 1})
    agreement.check_shared_folder(Path("nowhere"))


def test_slurm_and_open_mpi_are_detected(no_cluster: pytest.MonkeyPatch):
    no_cluster.setenv("SLURM_JOB_ID", "7")
    for name, value in {
        "SLURM_STEP_NODELIST": "node[03-04]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        no_cluster.setenv(name, value)
    place = find_place(ProcessOptions(), 1.0)
    assert place == ProcessPlace("node03:61447", 2, 1, True)
    # what is told wins
    place = find_place(ProcessOptions(coordinator="other:99"), 1.0)
    assert place == ProcessPlace("other:99", 2, 1, True)
    no_cluster.setenv("SLURM_NTASKS", "1")
    assert find_place(ProcessOptions(), 1.0) is None
    no_cluster.delenv("SLURM_JOB_ID")
    no_cluster.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911")
    no_cluster.setenv("OMPI_COMM_WORLD_SIZE", "3")
    no_cluster.setenv("OMPI_COMM_WORLD_RANK", "2")
    place = find_place(ProcessOptions(), 1.0)
    assert place is not None and (place.num_processes, place.process_id) == (3, 2)
    assert place.coordinator.startswith("10.96.0.1:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "a:1"}, "--num-processes (or JAX_NUM_PROCESSES) and --process-id"),
        ({"num_processes": "2", "process_id": "0"}, "--coordinator HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": "2", "process_id": "2"}, "expected 0 to 1"),
        ({"coordinator": "a", "num_processes": "2", "process_id": "1"}, "expected HOST:PORT"),
        ({"num_processes": "two"}, "--num-processes: expected a number from 1, found 'two'"),
        ({"process_id": "1.5"}, "--process-id: expected a whole number, found 1.5"),
        ({"start_timeout": "0"}, "--start-timeout: expected a number from 1"),
        ({"heartbeat_timeout": "nan"}, "--heartbeat-timeout: expected a number from 5"),
    ],
)
def test_wrong_options_are_one_line(
    options: dict[str, str], message: str, no_cluster: pytest.MonkeyPatch
):
    with pytest.raises(UserError) as mistake:
        distributed.start(ProcessOptions(**options))
    assert message in str(mistake.value)


def test_the_command_line_takes_the_options_of_processes_out():
    arguments = ["tune", "a.yaml", "--coordinator=h:1", "--process-id", "1", "--", "--process-id"]
    rest, options = take_process_options(arguments)
    assert rest == ["tune", "a.yaml", "--", "--process-id"]
    assert options == ProcessOptions("h:1", None, "1")
    with pytest.raises(UserError, match="--num-processes lacks its value"):
        take_process_options(["tune", "--num-processes"])
