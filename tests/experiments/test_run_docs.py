"""docs/reproduce.md: the costs that it states are those of the plans."""

import re
from pathlib import Path

from lpft.experiments.plan import make_scope
from lpft.experiments.run import RECIPES, SAME_AS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproduce.md"


def test_every_experiment_stands_there_with_its_runs_and_kernels(tmp_path):
    planned = {}
    distinct = set()
    for name, recipe in RECIPES.items():
        plan = recipe.plan(make_scope(recipe, {}, tmp_path, tiny=False))
        runs = plan.run_configs
        planned[name] = (len(runs), len(plan.kernels))
        distinct |= {(config.output_dir, config.output.save_features) for config in runs}
    stated = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`((?:table|figure)\d+|claims)`", cells[0])
        if len(cells) == 4 and names:
            runs, kernels = (int(cell.removesuffix(" each")) for cell in cells[2:])
            stated |= dict.fromkeys(names, (runs, kernels))
    assert {name: cost for name, cost in stated.items() if name not in SAME_AS} == planned
    assert set(stated) == set(planned) | set(SAME_AS)
    total = sum(runs for runs, _ in planned.values())
    told = f"of these {total:,} runs {len(distinct):,} are different ones"
    assert told in PAGE.read_text(encoding="utf-8")
