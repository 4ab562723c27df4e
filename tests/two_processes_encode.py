"""What each process of `torchrun --nproc-per-node 2 tests/two_processes_encode.py OUT` does: encode together."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def texts() -> list[str]:
    """Ninety texts of different lengths, some of them twice."""
    from tests.toy import item_words

    words = item_words()
    return [" ".join(words[number % 24 :][: 1 + number % 5]) for number in range(90)]


def encode_twice(out: Path) -> list[dict]:
    """Do it on two processes, and give back what each of them found."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CROSSREC_CACHE": str(out / "cache")}
    done = subprocess.run([*launch, __file__, str(out)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


def main(out: Path) -> None:
    """Encode, count the texts that went through the model here, and hash what came back."""
    from accelerate import PartialState

    from crossrec import encode

    counted, forward = [], encode._forward
    encode._forward = lambda *given: counted.append(len(given[1])) or forward(*given)
    encoder = encode.Encoder(str(out / "model"))
    first = encoder.encode(texts())
    second = encoder.encode([*texts(), "oat oat oat"])  # one more, which falls to one of them
    state = PartialState()
    found = {"vectors": hashlib.sha256(first.tobytes() + second.tobytes()).hexdigest(), "counted": counted,
             "rank": state.process_index, "processes": state.num_processes}
    (out / f"{state.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
