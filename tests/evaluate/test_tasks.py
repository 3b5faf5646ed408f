"""Each task's public format, prompt and keys, and the errors for invalid records."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.data_set import partition, read_data_set
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.tasks import TASKS, find_task
from tests.evaluate.data_sets import CONTENT, MC, write

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CHOICES = {"index2ans": {"A": "red", "B": "blue"}, "all_choices": ["A", "B"]}

# Per task: id, prompt without its picture, picture, the keys that its lines have beside id, prompt and answer.
WANTED: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "TextVQA": (7, f"What word?\n{SHORT}", "1.jpg", {"gt_answer": ["stop"] * 10}),
    "VQAv2": (7, f"What?\n{SHORT}", "1.jpg", {"gt_answer": ["dog"] * 10}),
    "ChartQA": (0, f"How many?\n{SHORT}", "1.jpg", {"gt_answer": ["12"]}),
    "OCRBench": (
        *(0, "Read it.", "1.jpg"),
        {"gt_answer": ["STOP"], "dataset_name": "IIIT5K", "data_type": "Regular Text Recognition"},
    ),
    "SPDocVQA": (7, f"Which date?\n{SHORT}", "1.jpg", {"gt_answer": ["1 May"]}),
    "RealworldQA": (0, f"Which?\nA. x\nB. y\n{LETTER}", "1.jpg", {"gt_answer": ["B"]}),
    "MathVista": (
        *("7", "Give a number.\nQuestion: How long?", "1.jpg"),
        {"gt_answer": ["2.50"], "question_type": "free_form", "index2ans": {}, "all_choices": []},
    ),
    "captioning": (
        *(42, "Provide a one-sentence caption for the provided image.", "COCO_val2014_000000000042.jpg"),
        {"ground_truth": ["A dog.", "A red dog."]},
    ),
    "own": ("a", "Which?", "1.jpg", {"gt_answer": ["x", "y"]}),
    "AI2D": (7, "Which?\nA. x\nB. y", "1.jpg", {"gt_answer": ["B"]}),
    "MMMU": (
        *("validation_Art_Theory_1", f"Which ?\n(A) red\n(B) blue\n\n{LETTER}", "1.jpg"),
        {"gt_answer": ["B"], "question_type": "multiple-choice", **CHOICES},
    ),
}


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_a_record_becomes_a_question(tmp_path, name):
    (sample,) = read_data_set(find_task(name), write(tmp_path, name)).samples
    sample_id, prompt, picture, fields = WANTED[name]
    assert sample.sample_id == sample_id
    assert sample.prompt == f"<image>\n{prompt}"
    assert sample.pictures == (picture,)
    assert sample.fields == fields


def test_options_of_mathvista_are_asked_for_by_letter(tmp_path):
    record = {**CONTENT["MathVista"][1]["7"], "question_type": "multi_choice", "choices": ["2", "2.50"]}
    (sample,) = read_data_set(find_task("mathvista"), write(tmp_path, "MathVista", {"7": record})).samples
    assert sample.prompt == f"<image>\nHow long?\nA. 2\nB. 2.50\n{LETTER}"
    assert sample.fields["gt_answer"] == ["B"]


def test_questions_of_ones_own_may_have_several_pictures_or_none_and_place_them(tmp_path):
    asked = {"prompt": "Same?", "answers": "yes"}
    marked = {"id": 2, "prompt": "Is <image> in <image>?", "images": ["1.jpg", "2.jpg"], "answers": "no", "group": "g"}
    records = [{**asked, "id": 0}, {**asked, "id": 1, "images": ["1.jpg", "2.jpg"]}, marked]
    samples = read_data_set(find_task("own"), write(tmp_path, "own", records)).samples
    assert [sample.prompt for sample in samples] == ["Same?", "<image>\n<image>\nSame?", "Is <image> in <image>?"]
    assert samples[2].fields == {"gt_answer": ["no"], "group": "g"}


@pytest.mark.parametrize(
    ("answer", "plain", "strict"),
    [("x", 1, 1), (" X. ", 1, 0), ("a\n b", 1, 0), (" a b", 1, 1), ("xx", 0, 0), ("", 0, 0)],
)
def test_an_answer_to_ones_own_question_is_one_of_those_given(answer, plain, strict):
    record = {"answer": answer, "gt_answer": ["x", "A B", "a b"]}
    assert [find_task("own").judge([record], Rules(strict=rule)) for rule in (False, True)] == [[plain], [strict]]


def test_open_questions_of_mmmu(tmp_path):
    record = {**CONTENT["MMMU"][1][0], "question_type": "open", "options": "[]", "answer": "7"}
    (sample,) = read_data_set(find_task("MMMU"), write(tmp_path, "MMMU", [record])).samples
    assert sample.prompt == f"<image>\nWhich ?\n{SHORT}"


def test_a_line_of_mmmu_holds_the_choice_that_was_meant():
    line: dict[str, Any] = {"sample_id": 1, "text": "maybe the second", **CHOICES, "question_type": MC["question_type"]}
    find_task("MMMU").complete(line, Rules())
    assert line["prediction"] == "A"
    line["text"] = "(B)"
    find_task("MMMU").complete(line, Rules())
    assert line["prediction"] == "B"


def test_a_task_is_found_by_any_of_its_names():
    assert find_task("docvqa") is find_task("SPDocVQA")
    assert find_task("RealWorldQA").name == "RealworldQA"
    with pytest.raises(UsageError, match=r"E-EVAL-TASK.*'nothing'.*MMMU, MathVista"):
        find_task("nothing")


def keys(name: str) -> list[tuple[str, ...]]:
    """The way to every value that a good data set has."""

    def below(value: Any, way: tuple[Any, ...] = ()) -> list[Any]:
        if isinstance(value, dict):
            return [end for key in value for end in below(value[key], (*way, key))]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [end for number in range(len(value)) for end in below(value[number], (*way, number))]
        return [] if value is None else [way]

    return below(CONTENT[name][1])


# Not read: options come from "choices" or the like, MathVista's question for free form is in its query.
UNREAD = {("MathVista", "question")}


@pytest.mark.parametrize("name", [task.name for task in TASKS])
@pytest.mark.parametrize("wrong", [{"not": "a text"}, ""], ids=["object", "empty"])
def test_a_malformed_value_is_named_by_file_record_and_key(tmp_path, name, wrong):
    for way in keys(name):
        if (name, way[-1]) in UNREAD:
            continue
        content = copy.deepcopy(CONTENT[name][1])
        holder = content
        for key in way[:-1]:
            holder = holder[key]
        holder[way[-1]] = wrong
        write(tmp_path, name, content)
        with pytest.raises(UsageError) as caught:
            read_data_set(find_task(name), tmp_path)
        assert caught.value.code == "E-EVAL-DATA", way
        assert CONTENT[name][0] in caught.value.what
        assert "record 1" in caught.value.what or way[0] == "annotations"
        if way[-1] not in ("id", "image_id") or name == "TextVQA":
            shown = {"caption": "captions"}.get(str(way[-1]), str(way[-1]))
            assert f'"{shown}"' in caught.value.what or f'"{way[-1]}"' in caught.value.what


@pytest.mark.parametrize("name", [task.name for task in TASKS])
@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "7", '["x"]', "\udcff"])
def test_what_is_no_data_set_is_refused(tmp_path, name, text):
    (tmp_path / CONTENT[name][0]).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"E-EVAL-(DATA|MISSING)"):
        read_data_set(find_task(name), tmp_path)


@pytest.mark.parametrize("picture", ["../1.jpg", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_picture_lies_below_the_data_sets_folder(tmp_path, picture):
    write(tmp_path, "ChartQA", [{"imgname": picture, "query": "How many?", "label": "12"}])
    with pytest.raises(UsageError, match="leads out"):
        read_data_set(find_task("ChartQA"), tmp_path)


def test_a_record_number_is_right_and_numbers_are_taken_as_texts(tmp_path):
    good = {"imgname": "1.jpg", "query": "How many?", "label": 12}
    data = read_data_set(find_task("ChartQA"), write(tmp_path, "ChartQA", [good]))
    assert data.samples[0].fields["gt_answer"] == ["12"]
    write(tmp_path, "ChartQA", [good, good, {**good, "label": [1]}])
    with pytest.raises(UsageError, match=r'chartqa.json, record 3: "label" is not a text'):
        read_data_set(find_task("ChartQA"), tmp_path)


def test_duplicates_are_told_and_the_first_is_kept(tmp_path):
    record = CONTENT["AI2D"][1][0]
    again = {**record, "question": "Another?"}
    data = read_data_set(find_task("AI2D"), write(tmp_path, "AI2D", [record, {**record, "question_id": 8}, again]))
    assert [sample.sample_id for sample in data.samples] == [7, 8]
    (duplicate,) = data.duplicates
    assert (duplicate.sample_id, duplicate.record, duplicate.first_record) == (7, 3, 1)


def test_the_usual_file_must_be_the_only_one(tmp_path):
    with pytest.raises(UsageError, match=r"E-EVAL-MISSING.*none of test_human.json"):
        read_data_set(find_task("ChartQA"), tmp_path)
    for name in ("test_human.json", "test_augmented.json"):
        (tmp_path / name).write_text(json.dumps(CONTENT["ChartQA"][1]), encoding="utf-8")
    with pytest.raises(UsageError, match="more than one"):
        read_data_set(find_task("ChartQA"), tmp_path)
    named = read_data_set(find_task("ChartQA"), tmp_path, annotations=tmp_path / "test_human.json")
    assert named.annotations == "test_human.json"
    with pytest.raises(UsageError, match="E-EVAL-MISSING"):
        read_data_set(find_task("ChartQA"), tmp_path / "nowhere")


def test_pictures_are_looked_for_where_the_benchmark_has_them(tmp_path):
    data = read_data_set(find_task("ChartQA"), write(tmp_path, "ChartQA"))
    assert [(sample.sample_id, name) for sample, name in data.missing_pictures()] == [(0, "1.jpg")]
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / "1.jpg").write_bytes(b"x")
    assert list(data.missing_pictures()) == []
    elsewhere = read_data_set(find_task("ChartQA"), tmp_path, pictures=Path(tmp_path))
    assert len(list(elsewhere.missing_pictures())) == 1


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (2, 3), (7, 1), (0, 2)])
def test_partitions_are_all_of_the_data_in_order(tmp_path, count, parts):
    numbers: Any = list(range(count))
    cut = [partition(numbers, number, parts) for number in range(parts)]
    assert [number for part in cut for number in part] == numbers
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
