"""What each process of `torchrun --nproc-per-node 2 tests/two_processes.py train|finetune OUT` does.

torchrun, because `accelerate launch --cpu` starts a single process where there is no mpirun.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def run_twice(what: str, out: Path) -> list[dict]:
    """Do it on two processes, and give back what each of them found."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launch, __file__, what, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


def weights_hash(net) -> str:
    """The SHA-256 of all weights of a model."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_on_the_ring(out: Path) -> dict:
    import numpy as np

    from crossrec.model import ModelSettings, TwoTower
    from crossrec.train import TrainSettings, length_sorted, train, windows
    from tests.toy import N_ITEMS, ring

    rows, settings = ring(users=33), TrainSettings(epochs=3, positions=77, least_steps=1, patience=1)
    batches = len(length_sorted(windows(rows, 6).lengths, settings.positions, np.random.default_rng(0)))
    net = TwoTower(ModelSettings(width=16, max_length=6, text=False), N_ITEMS)
    looks = iter([0.1, 0.3, 0.2])
    log = train(net, rows, settings, judge=lambda: next(looks))
    return {"weights": weights_hash(net), "batches": batches, "epochs": len(log)}


def finetune_on_the_ring(out: Path) -> dict:
    from crossrec import finetune as chapter
    from crossrec.encode import Encoder
    from crossrec.finetune import FineTuneSettings, finetune
    from tests.toy import item_words, ring

    kept, drawn, save, draw = [], [], chapter._save, chapter.draw_pairs

    def keep_and_save(run, *rest) -> None:  # only one process saves: what the other one holds is seen here alone
        kept.append(weights_hash(run.model))
        save(run, *rest)

    def draw_and_note(*given):
        drawn.append(draw(*given))
        return drawn[-1]

    chapter._save, chapter.draw_pairs = keep_and_save, draw_and_note
    start, brief = Encoder(str(out / "start")), FineTuneSettings(steps=9, batch=8)
    tuned = finetune(start, item_words(), ring(), brief, out / "tuned")
    return {"weights": kept[0], "saved": weights_hash(tuned.load()), "drawn": drawn[0].tolist()}


if __name__ == "__main__":
    from accelerate import PartialState

    what, out = sys.argv[1], Path(sys.argv[2])
    found = {"train": train_on_the_ring, "finetune": finetune_on_the_ring}[what](out)
    state = PartialState()
    found |= {"processes": state.num_processes}
    (out / f"{state.process_index}.json").write_text(json.dumps(found))
