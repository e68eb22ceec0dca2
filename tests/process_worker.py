"""What each process of a group runs: the jobs of a list, one after the other, in one JAX.

    python process_worker.py JOBS.json REPORT.json

JAX_COORDINATOR_ADDRESS and so on say which process it is. A process takes seconds to start, so a
group does many jobs. A job is {"do": NAME, ...arguments}; what it gives, or the mistake that it
ends with, goes into the report of its process.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from adapt_jax.utils import agreement, distributed
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.errors import UserError


def tune(config, output, mesh=None, kill_at=None, stop_at=None):
    """Tunes; a process may be killed or asked to stop after a step."""
    from adapt_jax.comparison.tune import tune as run
    from adapt_jax.utils import progress

    def note(step, steps, words=""):
        if kill_at == [distributed.process_index(), step]:
            os.kill(os.getpid(), signal.SIGKILL)
        if stop_at is not None:  # JAX looks for signals once a second
            time.sleep(0.5)
        if stop_at == [distributed.process_index(), step]:
            os.kill(os.getpid(), signal.SIGTERM)

    class Quiet(progress.Display):
        def stage(self, name):
            from contextlib import nullcontext

            return nullcontext(note)

    import adapt_jax.comparison.tune as module

    module.Display = Quiet  # type: ignore[misc,assignment]
    run(config, output, overrides={} if mesh is None else {"mesh": mesh}, progress=False)


def compare(config, output, mesh=None, kill_after=None):
    """Compares; a process may be killed after so many answers of a rung: [process, rung, count]."""
    from adapt_jax.comparison.compare import compare as run
    from adapt_jax.evaluation.journal import Journal

    add, added = Journal.add, []

    def add_and_die(journal, prediction):
        add(journal, prediction)
        if f"{kill_after[1]}-" in str(journal.path):
            added.append(prediction)
        if len(added) == kill_after[2]:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_after is not None and kill_after[0] == distributed.process_index():
        Journal.add = add_and_die
    run(config, output, overrides={} if mesh is None else {"mesh": mesh}, progress=False)


def evaluate(adaptation, task, output):
    from adapt_jax.cli.evaluate import evaluate as run

    run(adaptation, task, output_dir=output, quiet=True)


def predict(adaptation, source, target):
    from adapt_jax.cli.predict import predict as run

    run(adaptation, to_path(source), to_path(target), quiet=True)


def pretrain(config, output):
    from adapt_jax.cli.pretrain import pretrain as run

    run(config, output_dir=output, quiet=True)


def agree(values):
    """``values`` holds the value of each process."""
    agreement.agree("configuration", {"key": values[distributed.process_index()]})


def share(folders):
    """Checks a folder, which ``folders`` names for each process."""
    agreement.check_shared_folder(Path(folders[distributed.process_index()]))


def run_on_main(mistake):
    def fail():
        raise UserError(mistake)

    agreement.run_on_main("a mistake", fail)


def gather():
    return distributed.gather("who", {"index": distributed.process_index()})


JOBS = (tune, compare, evaluate, predict, pretrain, agree, share, run_on_main, gather)


def main(jobs_file, report_file):
    from adapt_jax.utils.interruption import Interrupted

    distributed.start()
    if cache := os.environ.get("ADAPT_JAX_BUCKET_CACHE"):  # of its own, as on a host of its own
        os.environ["ADAPT_JAX_BUCKET_CACHE"] = f"{cache}/{distributed.process_index()}"
    report = []
    known = {function.__name__: function for function in JOBS}
    for job in json.loads(Path(jobs_file).read_text()):
        began = time.monotonic()
        try:
            row = {"value": known[job.pop("do")](**job)}
        except UserError as mistake:
            row = {"mistake": str(mistake)}
        except Interrupted as stop:
            row = {"stopped": str(stop)}
        except Exception:
            row = {"crash": traceback.format_exc()[-3000:]}
        report.append(row | {"seconds": round(time.monotonic() - began, 1)})
        Path(report_file).write_text(json.dumps(report))
    distributed.finish(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
