"""RegionCaptioner: columns in, columns out; under Ray Data with a worker that dies."""

import json
import os

import numpy as np
import pytest

from dynrefer.captioning import RegionCaptioner
from dynrefer.predictor import RegionPredictor


@pytest.fixture(scope="module")
def rows(photos):
    lines = (photos / "regions.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "box" in row]


def options(photos):
    return {
        "model": str(photos / "checkpoints/last"),
        "images": str(photos / "images"),
        "device": "cpu",
    }


def expected(photos, rows):
    predictor = RegionPredictor.from_checkpoint(photos / "checkpoints/last", "cpu")
    requests = [(photos / "images" / row["image"], [row["box"]]) for row in rows]
    results = predictor.predict_many(requests, decoders=["caption"])
    return [result.regions[0].prediction.caption for result in results]


def test_columns_of_a_batch(photos, rows):
    captioner = RegionCaptioner(**options(photos), decoders=["caption", "classes"], top=2)
    content = (photos / "images/0.png").read_bytes()
    batch = {
        "id": np.array([row["id"] for row in rows] + [100, 101]),
        "image": np.array([*(row["image"] for row in rows), content, "none.png"], dtype=object),
        "box": np.array([row["box"] for row in rows] + [rows[0]["box"]] * 2),
    }
    columns = captioner(batch)
    assert set(columns) == {"id", "caption", "score", "error", "line"}
    assert columns["id"].tolist() == [*(str(row["id"]) for row in rows), "100", "101"]
    assert columns["caption"].tolist()[:-2] == expected(photos, rows)
    assert columns["caption"][-2] == columns["caption"][0]
    assert columns["error"].tolist()[:-1] == [""] * (len(rows) + 1)
    assert "none.png does not exist" in columns["error"][-1] and np.isnan(columns["score"][-1])
    line = json.loads(columns["line"][0])
    assert line["caption"] == columns["caption"][0] and len(line["classes"]) == 2
    bad = captioner({"id": np.array(["a"]), "image": np.array(["0.png"])})
    assert bad["error"].tolist() == ["row 0: has no region; give one of box, boxes, mask"]
    assert bad["id"].tolist() == ["a"]


def test_ray_data_goes_on_where_a_worker_dies(photos, rows, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra [ray])")
    pytest.importorskip("ray.data", reason="Ray Data is not installed (the extra [ray])")

    class Dies(RegionCaptioner):
        """One worker dies, once, in the midst of its second batch."""

        def __call__(self, batch):
            self.batches = getattr(self, "batches", 0) + 1
            if self.batches == 2:
                try:
                    (tmp_path / "died").mkdir()
                except FileExistsError:
                    pass
                else:
                    os._exit(1)
            return super().__call__(batch)

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        data = ray.data.from_items(rows, override_num_blocks=4).map_batches(
            Dies,
            fn_constructor_kwargs=options(photos),
            batch_size=2,
            concurrency=2,
            batch_format="numpy",
        )
        found = {row["id"]: row for row in data.take_all()}
    finally:
        ray.shutdown()
    assert (tmp_path / "died").is_dir()
    assert sorted(found, key=int) == [str(row["id"]) for row in rows]
    captions = [found[str(row["id"])]["caption"] for row in rows]
    assert captions == expected(photos, rows)
