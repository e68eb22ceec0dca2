"""Several processes train as one: asked to stop, all save the same step and go on from there."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from adapt_jax.utils.interruption import AGREEMENT_INTERVAL, RESTART_EXIT_CODE

PROGRAM = """
import json, os, signal, sys
import jax
from flax import nnx

index, port, runs = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    f"localhost:{port}", num_processes=2, process_id=index, heartbeat_timeout_seconds=300
)

from pathlib import Path
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.training.packing import TrainingExample
from adapt_jax.utils.interruption import RESTART_EXIT_CODE, Interrupted
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.trainer import TrainingData, train

assert jax.process_count() == jax.device_count() == 2
config = DecoderConfig("LlamaForCausalLM", 64, 16, 32, 1, 2, 2, 8, 64, tie_embeddings=True)
examples = [TrainingExample(str(n), tuple(range(n, n + 9)), 4) for n in range(3, 11)]
training = TrainingConfig(steps=25, batch_size=4, row_length=64, learning_rate=1e-2)

for folder, asked in runs:
    def on_step(step, steps, note):
        if asked and step == asked and index == 1:  # one of the two is told
            os.kill(os.getpid(), signal.SIGTERM)

    model = TunedDecoder(Decoder(config, rngs=nnx.Rngs(0)))
    given = {"seed": 0, "folder": Path(folder), "mesh": make_mesh(data=2), "on_step": on_step}
    try:
        losses = train(model, nnx.Param, TrainingData(examples), training, **given).losses
        print(json.dumps(losses))
    except Interrupted as stop:
        print(stop)
        sys.exit(RESTART_EXIT_CODE)
"""


def together(*runs: tuple[Path, int | None]) -> list[tuple[int, list[str]]]:
    """Exit code and last lines of each of two processes, a line for each run.

    Args:
        runs: folders, and after which step one process is asked to stop (None: it is not).
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    given = json.dumps([(str(folder), asked) for folder, asked in runs])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), str(port), given],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    ended = []
    try:
        for process in started:
            out, errors = process.communicate(timeout=300)
            assert process.returncode in (0, RESTART_EXIT_CODE), errors[-3000:]
            ended.append((process.returncode, out.splitlines()[-len(runs) :]))
    finally:
        for process in started:
            process.kill()
    return ended


def test_one_process_that_is_asked_to_stop_leads_all_to_save_the_same_step_and_leave(
    tmp_path: Path,
):
    whole, cut = (tmp_path / "whole", None), (tmp_path / "cut", AGREEMENT_INTERVAL + 2)
    codes, lines = zip(*together(whole, cut), strict=True)
    assert codes == (RESTART_EXIT_CODE, RESTART_EXIT_CODE)
    notice = f"stopped by SIGTERM after step {2 * AGREEMENT_INTERVAL} of 25"
    assert all(notice in line for _, line in lines), lines
    saved = {int(entry.name) for entry in (tmp_path / "cut" / "checkpoints").iterdir()}
    assert max(saved) == 2 * AGREEMENT_INTERVAL
    resumed = together((tmp_path / "cut", None))
    assert [code for code, _ in resumed] == [0, 0]
    # in new processes the run ends as the one that was never stopped
    losses = [json.loads(said[0]) for said in (*lines, *(said for _, said in resumed))]
    assert len(losses[0]) == 25 and all(each == losses[0] for each in losses)
    rows = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 26))
    assert losses[0][-1] < losses[0][0]
