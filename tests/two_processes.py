"""What each process of `torchrun --nproc-per-node 2 tests/two_processes.py WHAT OUT` does: see the table at the end.

torchrun, because `accelerate launch --cpu` starts a single process where there is no mpirun.
"""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def launch(what: str, out: Path, **environment: str) -> subprocess.Popen:
    """Start it on two processes, by torchrun or, with CONFIG in the environment, by `accelerate launch`."""
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    if "CONFIG" in environment:
        command = ["accelerate.commands.launch", "--config_file", environment["CONFIG"]]
    return subprocess.Popen([sys.executable, "-m", *command, __file__, what, str(out)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def run_twice(what: str, out: Path, **environment: str) -> list[dict]:
    """Do it on two processes, and give back what each of them found."""
    with launch(what, out, **environment) as done:
        try:
            _, told = done.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            done.terminate()  # torchrun ends its processes
            raise
    assert done.returncode == 0, told[-3000:]
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
    looks = iter([0.1, 0.0, 0.0, 0.3, 0.2, 0.2])  # of the last weights and of their mean, pass by pass
    log = train(net, rows, settings, judge=lambda: next(looks))
    return {"weights": weights_hash(net), "batches": batches, "epochs": len(log)}


TUNED = {
    "histories": {"history": 2, "top": 2},
    "parts": {"history": 3, "accumulate": 3, "keep": 0.0},
    "lora": {"mode": "lora", "rate": 1e-3, "anchor": 0.1},
    "sequence": {"objective": "sequence", "mode": "full"},
    "language": {"objective": "language", "mode": "full"},
}


def tuned(out: Path, name: str, batch: int) -> dict:
    """Tune a tiny model on the ring in one of the ways of the table; the losses, and what every process holds."""
    import torch

    from crossrec.encode import Encoder
    from crossrec.finetune import finetune, text_judge, tuning_log
    from crossrec.loop import Callback
    from crossrec.model import ModelSettings, TwoTower
    from crossrec.tuning import FineTuneSettings
    from tests.toy import N_ITEMS, item_vectors, item_words, ring, ring_queries

    class Look(Callback):
        def end(self, run, error) -> None:
            self.hash = weights_hash(run.task.model)

    settings = FineTuneSettings(steps=6, epochs=2, batch=batch, precision="fp32", **({"rate": 1e-3} | TUNED[name]))
    torch.manual_seed(2)
    look, judge = Look(), None if name == "language" else text_judge(ring_queries())
    folder, start = out / f"{name}-{batch}", Encoder(str(out / "start"))
    net = TwoTower(ModelSettings(ids=False, width=16, dropout=0.0), N_ITEMS, item_vectors(32))  # dropout is chance
    made = finetune(start, item_words(), ring(), settings, folder, judge, net, [look])
    log = tuning_log(folder)
    weights = {key: value.tolist() for key, value in made.load().named_parameters()}
    return {"hash": look.hash, "loss": log["loss"].dropna().tolist(), "valid": log["valid"].dropna().tolist(),
            "weights": weights, "left": sorted(path.name for path in out.iterdir() if "unfinished" in path.name)}


def finetune_on_the_ring(out: Path) -> dict:
    """All ways, in batches of eight a process."""
    return {name: tuned(out, name, 8) for name in TUNED}


def next_items(*callbacks, dropout: float = 0.0, judge=None, net=None, **changes) -> dict:
    """Train on noisy walks round the ring; the log and the weights. Batches hold positions * processes predictions."""
    import numpy as np
    import torch

    from crossrec.model import ModelSettings, TwoTower
    from crossrec.train import TrainSettings, train
    from tests.toy import N_ITEMS, item_vectors, ring

    torch.manual_seed(5)
    rows, drawn = ring(users=33), np.random.default_rng(6)
    rows.items[drawn.random(len(rows.items)) < 0.2] = 3
    model = ModelSettings(width=16, max_length=6, dropout=dropout)
    net = net or TwoTower(model, N_ITEMS, item_vectors())
    settings = {"epochs": 4, "positions": 40, "rate": 1e-2, "least_steps": 1, "precision": "fp32"} | changes
    settings |= {"average": 0.0}  # a model in pieces has no mean of weights
    log = train(net, rows, TrainSettings(**settings), judge, callbacks=callbacks)
    weights = {name: value.detach().tolist() for name, value in net.named_parameters()}
    return {"loss": log["loss"].tolist(), "valid": [value if value == value else None for value in log["valid"]],
            "hash": weights_hash(net), "weights": weights, "whole": is_whole(net)}


def is_whole(net) -> bool:
    """Whether a model's weights are what they would be in one process."""
    return {type(weight).__name__ for weight in net.parameters()} == {"Parameter"}


def judged(dropout: float = 0.3, *callbacks, **changes) -> dict:
    """A run that stops early; what a process sees as its quality differs a little, as rounding might make it."""
    import torch

    from crossrec.model import ModelSettings, TwoTower
    from tests.toy import N_ITEMS, item_vectors

    torch.manual_seed(7)
    net = TwoTower(ModelSettings(width=16, max_length=6, dropout=dropout), N_ITEMS, item_vectors())
    rank = int(os.environ.get("RANK", 0))

    def judge() -> float:  # best where the ids have grown to a certain size
        assert type(net.ids) is torch.nn.Parameter, "the model is in pieces"
        return -abs(net.ids.detach().norm().item() - net.ids.numel() ** 0.5 * 0.08) + 1e-9 * rank

    return next_items(*callbacks, net=net, judge=judge, epochs=20, patience=2, **changes)


def after(step: int, do):
    """A callback that does something after a step."""
    from crossrec.loop import Callback

    class After(Callback):
        def step(self, run) -> None:
            if run.step == step:
                do()

    return After()


CURVES = {"plain": {}, "fewer rows than processes": {"positions": 3, "epochs": 1}, "uneven parts": {"accumulate": 3},
          "sampled": {"sample_above": 5, "negatives": 8}}


def devices(out: Path) -> dict:
    """Everything that two processes must do as one does."""
    from crossrec.callbacks import Trackers
    from crossrec.checkpoints import Checkpoints
    from crossrec.core import CrossrecError

    rank = int(os.environ["RANK"])
    found: dict = {"curves": {name: next_items(**changes) for name, changes in CURVES.items()}}
    own = out / f"written by {rank}"
    found["alone"] = judged(0.3, Checkpoints(own / "kept", every=7), Trackers("tensorboard", own / "runs", every=3))
    if (out / "killed").exists():
        found["resumed"] = judged(0.3, Checkpoints(out / "killed", every=4))
    try:
        judged(0.3, after(9, lambda: limit(2000)), Checkpoints(out / "full", every=5))
    except CrossrecError as error:
        found["full"] = str(error)
    limit(resource.RLIM_INFINITY)
    return found


def limit(size: int) -> None:
    """From now on the first process may not write larger files."""
    if os.environ["RANK"] == "0":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def killed(out: Path) -> dict:
    """One of the processes dies after a step."""
    from crossrec.checkpoints import Checkpoints

    victim, step = os.environ["VICTIM"].split(":")
    mine = victim in (os.environ["RANK"], "both")
    dies = [after(int(step), lambda: os.kill(os.getpid(), signal.SIGKILL))] if mine else []
    return judged(0.3, *dies, Checkpoints(out / "killed", every=4))


def interrupted(out: Path) -> dict:
    """A run that is slow enough to be stopped by hand."""
    import time

    from crossrec.checkpoints import Checkpoints

    ready = after(6, lambda: ((out / f"ready-{os.environ['RANK']}").touch(), time.sleep(3)))
    return judged(0.3, ready, Checkpoints(out / "killed", every=1000))


def language_task(**changes):
    """A tiny decoder whose head is its embedding, with a layer that is frozen, and learning rates layer by layer."""
    import numpy as np
    import torch
    from torch import nn
    from transformers import GPT2Config, GPT2LMHeadModel

    from crossrec.loop import LoopSettings, Task

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            shape = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16}
            self.lm = GPT2LMHeadModel(GPT2Config(vocab_size=40, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0,
                                                 bos_token_id=0, eos_token_id=0, **shape))

        def forward(self, told):
            return self.lm(**told, labels=told["input_ids"]).loss

    class Language(Task):
        name = "a language"

        def __init__(self) -> None:
            super().__init__(LoopSettings(**({"epochs": 2, "rate": 1e-2, "precision": "fp32"} | changes)))
            self.model = Loss()
            self.model.lm.transformer.h[0].requires_grad_(False)
            self.words = torch.randint(0, 40, (30, 8), generator=torch.Generator().manual_seed(4))

        def batches(self, rng, processes):
            return np.array_split(rng.permutation(30), 4)

        def inputs(self, rows, step):
            return ({"input_ids": self.words[rows]},)

        def groups(self):
            top = list(self.model.lm.transformer.h[2].parameters())
            rest = [w for w in self.model.parameters() if w.requires_grad and all(w is not other for other in top)]
            return [top, rest]

        def rates(self, step, total):
            return [1e-2, 1e-3]

    return Language()


def language(**changes) -> dict:
    from crossrec.loop import train

    task = language_task(**changes)
    log = train(task)
    weights = {name: value.detach().tolist() for name, value in task.model.named_parameters()}
    return {"loss": log["loss"].tolist(), "valid": [], "hash": weights_hash(task.model), "weights": weights,
            "whole": is_whole(task.model)}


class Pieces:
    """What the weights of the last run were while it trained."""

    seen: list = []


def look_at_pieces():
    """A callback that notes how a run shares its weights."""
    from crossrec.loop import Callback

    class Look(Callback):
        def begin(self, run) -> None:
            weights = list(run.model.parameters())
            cut = [hasattr(weight, "device_mesh") or hasattr(weight, "ds_id") for weight in weights]
            Pieces.seen = [run.accelerator.distributed_type.value, all(cut)]

    return Look()


def sharded(out: Path) -> dict:
    """FSDP2 on processors: Accelerate chooses it for cards only, so the processes say that they are cards."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    from crossrec.checkpoints import Checkpoints

    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    found = pieces()
    try:
        judged(0.3, after(9, lambda: 1 / 0), Checkpoints(out / "pieces", every=4))
    except ZeroDivisionError:
        found["resumed"] = judged(0.3, Checkpoints(out / "pieces", every=4))
    return found


def pieces() -> dict:
    """What a model that is cut in pieces must do as a whole one does."""
    found: dict = {"curves": {name: next_items(look_at_pieces(), **changes) for name, changes in CURVES.items()}}
    return found | {"pieces": Pieces.seen, "language": language(), "alone": judged(0.3)}


def deepspeed(out: Path) -> dict:
    """DeepSpeed on processors, which Accelerate leaves to cards too."""
    from accelerate import PartialState

    from crossrec import loop
    from crossrec.checkpoints import Checkpoints
    from crossrec.core import CrossrecError

    PartialState(cpu=True)
    loop.device = lambda: "cuda"  # else Accelerate is told that there is none
    found = pieces()
    try:
        judged(0.3, Checkpoints(out / "kept"))
    except CrossrecError as error:
        found["refused"] = str(error)
    return found


if __name__ == "__main__":
    from accelerate import PartialState

    what, out = sys.argv[1], Path(sys.argv[2])
    table = {"train": train_on_the_ring, "finetune": finetune_on_the_ring, "devices": devices, "killed": killed,
             "interrupted": interrupted, "sharded": sharded, "deepspeed": deepspeed}
    found = table[what](out)
    state = PartialState()
    found |= {"processes": state.num_processes}
    (out / f"{state.process_index}.json").write_text(json.dumps(found))
