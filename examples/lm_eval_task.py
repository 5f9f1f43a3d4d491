"""lm-evaluation-harness on a model with tables, on a task made of a text of your own: which of four sentences goes on
from here?

    pip install lm_eval
    python examples/lm_eval_task.py SmolLM2-135M-Instruct.gguf --text book.txt --tables silu_fplut,exp_fplut,rsqrt_fplut

Any other task of the harness runs the same way: give its name in the place of TASK. Nothing is fetched here.
"""

import argparse
import json
import logging
import os
import random
import re
import tempfile
from pathlib import Path

import lutc
from lutc.evaluation import variant
from lutc.models.loading import load

TASK = "lutc_next_sentence"
YAML = """
task: {task}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl}}
  cache_dir: {folder}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


def write_task(folder: Path, text: str, count: int, seed: int = 0) -> None:
    """A task in `folder`: `count` questions, each two sentences of the text and four to choose from, one of which comes
    next.
    """
    sentences = [" ".join(s.split()) for s in re.split(r"(?<=[.!?])\s+", text)]
    places = [i for i in range(2, len(sentences)) if all(30 <= len(s) <= 200 for s in sentences[i - 2 : i + 1])]
    chooser = random.Random(seed)
    questions = []
    for place in chooser.sample(places, min(count, len(places))):
        endings = [
            sentences[place],
            *(sentences[other] for other in chooser.sample([p for p in places if p != place], 3)),
        ]
        order = chooser.sample(range(4), 4)
        context = " ".join(sentences[place - 2 : place])
        questions.append({"context": context, "endings": [endings[i] for i in order], "label": order.index(0)})
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (folder / f"{TASK}.yaml").write_text(YAML.format(task=TASK, folder=folder))


def score(loaded, folder: Path, batch: int) -> dict[str, float]:
    """Accuracies of the model as it is."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(harness, tasks=[TASK], task_manager=manager, bootstrap_iters=0)["results"][TASK]
    return {
        name.split(",")[0]: value for name, value in found.items() if name.startswith("acc") and "stderr" not in name
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a Hugging Face folder or a GGUF file of a causal model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument(
        "--tables", action="append", required=True, help="silu_16, or several: silu_fplut,exp_fplut; may be repeated"
    )
    parser.add_argument("--count", type=int, default=100, help="questions")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded = load(options.model, device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder), options.text.read_text(encoding="utf-8", errors="replace"), options.count)
        print("exact", score(loaded, Path(folder), options.batch), flush=True)
        for spec in options.tables:
            tables = variant(spec)
            tables.patch(loaded.model)
            print(tables.name, score(loaded, Path(folder), options.batch), flush=True)
            lutc.unpatch(loaded.model)


if __name__ == "__main__":
    main()
