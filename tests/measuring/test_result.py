import json

import pytest
from results import row

from kfdeploy.errors import PoolError
from kfdeploy.measuring.result import read_result, scores, upgraded

OLD = {
    "schema": 1, "kind": "benchmark", "machine": {"cpu": "C"}, "protocol": {"rounds": 3}, "quick": False,
    "rows": [row("assembly", "x", tasks=["cats, big", "dogs"], accuracies={"cats, big, dogs": {"accuracy": 0.5, "images": 4}}),
             row("student", "s", tasks=["cat"], accuracies={"cats, big, dogs": {"accuracy": 0.6, "images": 4}})],
    "comparisons": [{"a": "x", "b": "s", "subject": "cats, big, dogs"}],
    "answers": {"cats, big, dogs": {"sentence": "x."}},
}  # fmt: skip


def test_a_result_of_version_0_1_0_has_its_subjects_as_lists(tmp_path):
    place = tmp_path / "old.json"
    place.write_text(json.dumps(OLD))
    found, subject = read_result(place), ["cats, big", "dogs"]
    assert [list(scores(one)) for one in found["rows"]] == [[tuple(subject)]] * 2
    assert found["comparisons"] == [{"a": "x", "b": "s", "tasks": subject}]
    assert found["answers"] == [{"tasks": subject, "sentence": "x."}]
    assert upgraded(found) == found


def test_what_is_no_result_says_so(tmp_path):
    with pytest.raises(PoolError, match="there is no result at"):
        read_result(tmp_path / "none.json")
    for text, message in (("[1]", "kind 'list'"), ("{", "cannot be read"), ('{"schema": 1}', "kind None")):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(PoolError, match=message):
            read_result(tmp_path / "odd.json")
