"""Starts further runs in a workdir in which one is at work, and looks whether each stops at once and says who is."""

import signal
import time

from tests.faults import sites


def start_seconds(site: sites.Site, *, runs: int) -> dict:
  """Starts `runs` runs beside one that goes on, and one more when that one has been killed.

  Returns:
    "refused": how many stopped with status 1 and one sentence that names the process at work; "slowest_s": from their
    start to their end, at most (importing JAX is most of it); "wrong": a text for each that did not, and if the one at
    work was disturbed, or its lock outlived it.
  """
  endless = ("--config.coarse.epochs=1000000", "--config.optimizer.stop_patience=1000000")
  first, counts, wrong = site.start("held", *endless), {"refused": 0, "slowest_s": 0.0}, []
  first.hear(limit_s=sites.LIMIT_S, until="epoch 1/")
  for _ in range(runs):
    second = site.start("held", *endless)
    status = second.hear(limit_s=sites.LIMIT_S)
    if status == 1 and not second.told() and f"process {first.pid} " in second.errors:
      counts["refused"] += 1
    else:
      wrong.append(f"a second run ended with status {status}: {second.errors.strip() or 'nothing said'}")
    counts["slowest_s"] = max(counts["slowest_s"], round(second.seconds, 1))
  before = time.monotonic()
  first.hear(limit_s=sites.LIMIT_S, until="epoch ")
  first.send(signal.SIGKILL)
  first.hear(limit_s=sites.LIMIT_S)
  if first.ended - before > 30:
    wrong.append("the run at work was disturbed")
  third = site.start("held", *endless)
  third.hear(limit_s=sites.LIMIT_S, until="goes on after epoch")
  third.send(signal.SIGTERM)
  if third.hear(limit_s=sites.LIMIT_S) != 128 + signal.SIGTERM:
    wrong.append(f"after the one at work was killed the next did not go on: {third.errors.strip()}")
  return {**counts, "wrong": wrong}
