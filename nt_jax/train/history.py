"""metrics.jsonl: what tuning measured, epoch by epoch."""

import json
from pathlib import Path


class Metrics:
    """metrics.jsonl: one line per epoch, cut back to the checkpoint's epoch on resumption."""

    def __init__(self, path: Path, epoch: int):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [row for row in rows if row["epoch"] <= epoch]
        self.base = kept[0] if kept and kept[0]["epoch"] == 0 else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def write(self, row: dict) -> dict:
        """Append one line and return it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


def read_history(folder: Path, best_epoch: int) -> list[dict]:
    """The lines of metrics.jsonl, the kept epoch marked with best = True."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row | {"best": True} if row["epoch"] == best_epoch else row for row in rows]
