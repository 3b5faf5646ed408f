"""The cache of embeddings as a client and the metrics page see it."""

from __future__ import annotations

import io
import itertools
import re
import urllib.request

import numpy as np
from PIL import Image

from nvlm_trt.client import AskOptions
from nvlm_trt.deploy.server import TritonServer

OPTIONS = AskOptions(max_tokens=8)
SEEDS = itertools.count()  # the tests share a server, and what one has sent the next finds


def counted(server: TritonServer, outcome: str) -> int:
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        page = response.read().decode()
    found = re.search(rf'nvlm_vision_cache_tiles_total{{[^}}]*outcome="{outcome}"[^}}]*}} (\d+)', page)
    return int(found[1]) if found else 0


def new_picture() -> bytes:
    pixels = np.random.default_rng(next(SEEDS)).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_second_question_about_a_picture_encodes_nothing_and_has_the_same_answer(client, server):
    image = new_picture()
    misses = counted(server, "miss")
    first = client.ask("What is shown?", [image], OPTIONS)
    new = counted(server, "miss") - misses
    assert new > 0
    hits = counted(server, "hit")
    assert client.ask("What is shown?", [image], OPTIONS).text == first.text
    assert counted(server, "hit") - hits == new
    assert counted(server, "miss") - misses == new


def test_another_picture_of_the_same_size_is_encoded(client, server):
    client.ask("What is shown?", [new_picture()], OPTIONS)
    misses = counted(server, "miss")
    client.ask("What is shown?", [new_picture()], OPTIONS)
    assert counted(server, "miss") > misses
