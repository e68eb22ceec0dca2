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

folder, index, port, asked = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
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
model = TunedDecoder(Decoder(config, rngs=nnx.Rngs(0)))
examples = [TrainingExample(str(n), tuple(range(n, n + 9)), 4) for n in range(3, 11)]
training = TrainingConfig(steps=25, batch_size=4, row_length=64, learning_rate=1e-2)

def on_step(step, steps, note):
    if step == asked and index == 1:  # one of the two is told
        os.kill(os.getpid(), signal.SIGTERM)

given = {"seed": 0, "folder": Path(folder), "mesh": make_mesh(data=2), "on_step": on_step}
try:
    print(json.dumps(train(model, nnx.Param, TrainingData(examples), training, **given).losses))
except Interrupted as stop:
    print(stop)
    sys.exit(RESTART_EXIT_CODE)
"""


def together(folder: Path, asked: int = 0) -> list[tuple[int, str]]:
    """Exit code and last line of each of two processes; one is asked to stop after a step."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    words = [sys.executable, "-c", PROGRAM, str(folder)]
    started = [
        subprocess.Popen(
            [*words, str(index), str(port), str(asked)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    ended = []
    try:
        for process in started:
            out, errors = process.communicate(timeout=300)
            assert process.returncode in (0, RESTART_EXIT_CODE), errors[-3000:]
            ended.append((process.returncode, out.splitlines()[-1]))
    finally:
        for process in started:
            process.kill()
    return ended


def test_one_process_that_is_asked_to_stop_leads_all_to_save_the_same_step_and_leave(
    tmp_path: Path,
):
    codes, lines = zip(*together(tmp_path / "cut", asked=AGREEMENT_INTERVAL + 2), strict=True)
    assert codes == (RESTART_EXIT_CODE, RESTART_EXIT_CODE)
    assert all(
        f"stopped by SIGTERM after step {2 * AGREEMENT_INTERVAL} of 25" in line for line in lines
    )
    saved = {int(entry.name) for entry in (tmp_path / "cut" / "checkpoints").iterdir()}
    assert max(saved) == 2 * AGREEMENT_INTERVAL
    resumed, whole = together(tmp_path / "cut"), together(tmp_path / "whole")
    assert [code for code, _ in (*resumed, *whole)] == [0] * 4
    losses = [json.loads(line) for _, line in (*resumed, *whole)]
    assert len(losses[0]) == 25 and all(each == losses[0] for each in losses)
    rows = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 26))
    assert losses[0][-1] < losses[0][0]
