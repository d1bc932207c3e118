from tests.eval.judges.conftest import classifier

__all__ = ["classifier"]
