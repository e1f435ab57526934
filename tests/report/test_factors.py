"""What an inspection says in words, as a section of the page, and as a picture."""

import numpy as np
import pytest
from results import BAD

from kfdeploy.report.factors import disentanglement, plot, section, sentences


@pytest.fixture
def whole(inspection):
    """An inspection with everything in it: two models beside, two fields, and a probe that nothing could be told by."""
    measures = {"mig": 0.5, "sap": 0.25, "disentanglement": 0.75, "completeness": 0.625, "informativeness": 0.875,
                "factor_vae": 1.0}  # fmt: skip
    about = {"trees": "forest", "factors": ["shape", BAD], "N": 15_000}
    each = {"subsets": 4, "error": 0.01, "largest_error": 0.03, "accuracy": 0.9}
    cka = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    cka[3, 4] = cka[4, 3] = 0.75
    return inspection | {
        "factors": [*inspection["factors"], f"student {BAD}", "teacher"],
        "beside": [f"student {BAD}", "teacher"],
        "coupling": "joint",
        "training": {"terms": {}},
        "cka": cka.tolist(),
        "probe": [[0.81, 0.82], [0.9, None], [0.62, 0.93], [0.7, 0.7], [None, None]],
        "disentanglement": [
            {"codes": "tasks", "D": 64, **about, **measures},
            {"codes": f"student {BAD}", "D": 32, **about, **measures, "mig": 0.125},
        ],
        "calibration": {**each, "subsets": 5, "largest_error": 0.04,
                        "fields": {"shape": each, BAD: {**dict.fromkeys(each), "subsets": 0}}},
    }  # fmt: skip


def test_every_set_of_codes_and_every_model_beside_has_its_sentence(whole):
    told = sentences(whole)
    assert sum(line.startswith("beside: ") for line in told) == 2
    assert (
        f"beside:      student {BAD}: linear CKA 0.500 with a task's network on average, 0.500 with the common network, "
        "0.750 with teacher; a probe reads 70.0 % off it"
    ) in told
    assert any(line.endswith("a probe reads nothing that is known off it") for line in told)
    assert (
        "apart:       tasks, 64 codes on 15,000 images: MIG 0.500, SAP 0.250, FactorVAE 1.000; DCI by a random forest 0.750 "
        "disentangled, 0.625 complete, 0.875 informative"
    ) in told
    assert "62.0 % off another's" in "\n".join(told)  # the one that is known
    assert any(line.endswith("over 5 subsets within 2 fields (at most 0.0400)") for line in told)  # each its coupling


def test_without_subsets_nothing_is_said_of_calibration(whole):
    whole["calibration"] = {"subsets": 0, "error": None, "largest_error": None, "accuracy": None}
    assert not any("calibration" in line for line in sentences(whole))


def test_the_section_has_the_heat_maps_and_the_tables(whole, inspection):
    html = section(whole)
    assert html.count('<table class="heat">') == 2
    assert BAD not in html
    table = disentanglement(whole)
    assert table.rows[0] == ["tasks (all networks side by side)", "64", "15,000", "0.500", "0.250", "0.750", "0.625",
                             "0.875", "1.000"]  # fmt: skip
    assert table.rows[1][0] == f"student {BAD}"
    assert table.caption.endswith("(DCI) by a random forest")
    for text in ("MIG and SAP ask", "largest error", "0.0400", "–"):
        assert text in html
    plain = section(inspection)
    assert "MIG" not in plain
    assert "largest error" not in plain
    assert section({}) == ""


def test_what_is_odd_or_missing_breaks_no_section(whole):
    for key in ("disentanglement", "calibration", "cka", "probe", "factors"):
        for odd in (None, {}, [], 3, [None, 3, {}, {"codes": None, "D": "x", "factors": 3}], BAD, {"fields": {"a": 3}}):
            section({**whole, key: odd})


def test_the_picture_leaves_out_what_is_not_known(whole, tmp_path):
    pytest.importorskip("matplotlib")
    plot(whole, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
