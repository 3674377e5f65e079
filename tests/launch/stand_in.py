"""A main command that trains nothing, for tests of what runs it."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/segmentation.py"
# What stands for the main command: it notes its words and where it runs, and leaves scores.
STAND_IN = """
import json, os, pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words["--workdir"])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "calls").open("a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "-") + "\\n")
if hasattr(os, "sched_getaffinity"):
    (folder / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
if words.get("--config.steps") == "0":
    sys.exit("histojax: steps=0 has to be 1 or more")
if words.get("--config.steps") == "9":
    import signal
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "stopped").touch(), sys.exit(0)))
    time.sleep(60)
time.sleep(0.2)
(folder / "evaluation").mkdir()
seed = int(words["--config.seed"])
(folder / "evaluation" / "per_image.csv").write_text(
    "name,group,dice_hr_to_s,dice_classical\\n"
    f"TCGA-A7-A13E-01Z,a,{0.5 + 0.1 * seed},0.1\\nTCGA-B0-5711-01Z,b,{0.7 + 0.1 * seed},0.1\\n"
)
(folder / "summary.json").write_text("{}")
"""
