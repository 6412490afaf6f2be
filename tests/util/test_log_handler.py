from __future__ import annotations

import logging
from typing import Any

from tqdm import tqdm

from ray_st import LoggingHandler


def test_records_appear_above_a_bar(capsys: Any) -> None:
    logger = logging.Logger("rows")
    handler = LoggingHandler(logging.INFO)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    with tqdm(total=2, file=None) as bar:
        logger.info("half of %d", 2)
        logger.debug("not this")
        bar.update()
    assert capsys.readouterr().out == "INFO half of 2\n"
