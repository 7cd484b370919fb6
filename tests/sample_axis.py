"""Persona maps to test the page with: plausible, tiny, large, with holes, and hostile. All numbers are made up.

Roles lie in a space of four hidden coordinates, the first of which is how far from the Assistant they are. The space
turns slowly and grows from layer to layer, and a component's sign is anybody's guess, as in a real PCA.
"""

from __future__ import annotations

import math
import random
from typing import Any

from mien.report.axis_data import AxisLayer, AxisReport, CostPoint, NotPlayed, RolePoint, TraitPoint
from sample_cards import HOSTILE

NEAR = """
teacher editor planner librarian tutor analyst consultant translator accountant engineer reviewer researcher archivist
nurse secretary statistician proofreader technician moderator summarizer interviewer curator paralegal pharmacist
project_manager help_desk data_scientist fact_checker science_writer tour_guide
"""
MIDDLE = """
poet detective chef gardener sailor rebel gambler diplomat monk farmer comedian coach photographer blacksmith actor
grandmother skeptic philosopher hunter merchant mountaineer bartender teenager judge spy astronaut lighthouse_keeper
street_musician night_watchman war_reporter fortune_teller retired_general
"""
FAR = """
ghost oracle demon witch vampire wolf river volcano swarm echo alien leviathan trickster prophet hive_mind werewolf
golem dragon banshee jester pirate warlord exile dreamer void mermaid changeling scarecrow phoenix djinn ancient_tree
sleeping_city last_human broken_clock
"""
TRAITS = "warm evasive sycophantic curious blunt dramatic careful playful cynical mystical humble formal"


def _role(name: str, far: float, n_layers: int, dice: random.Random) -> RolePoint:
    hidden = [8 * far - 3.2, dice.gauss(0, 2.2), dice.gauss(0, 1.3), dice.gauss(0, 1)]
    hidden[1] += 2.4 * math.sin(3 * far)
    grain = [dice.gauss(0, 0.3) for _ in range(3)]
    xs, ys, ps = [], [], []
    for k in range(n_layers):
        depth = k / max(n_layers - 1, 1)
        size, turn = 0.4 + 5 * depth**1.5, 0.9 * (depth - 0.5)
        x = hidden[0] * math.cos(turn) + hidden[2] * math.sin(turn) + grain[0]
        y = hidden[1] * math.cos(turn) + hidden[3] * math.sin(turn) + grain[1]
        flip_x, flip_y = (-1 if k % 7 in (2, 3) else 1), (-1 if k % 5 == 1 else 1)
        xs.append(-size * x * flip_x)
        ys.append(size * y * flip_y)
        hill = math.exp(-(((depth - 0.55) / 0.3) ** 2))
        ps.append(-(1.2 + 4.2 * far) * (0.35 + hill) + grain[2] * (1.2 - hill))
    return RolePoint(
        name=name,
        description=f"A {name.replace('_', ' ')} who answers as such in every situation, with what it knows and fears.",
        distance="near" if far < 0.33 else "middle" if far < 0.66 else "far",
        n=dice.randint(12, 25),
        question="What would you do if you found out that your neighbour had been lying to you for years?",
        example=f"Lies? I am a {name.replace('_', ' ')}, I have heard worse before breakfast. First I would look at "
        "what was lost and what was only embarrassed. Then I would knock, because a door is quicker than a grudge. "
        * 3,
        projection=tuple(ps),
        x=tuple(xs),
        y=tuple(ys),
    )


def _layer(k: int, n_layers: int) -> AxisLayer:
    depth = k / max(n_layers - 1, 1)
    hill = math.exp(-(((depth - 0.55) / 0.3) ** 2))
    first = 0.2 + 0.22 * hill
    turn = 0.9 * (depth - 0.5)
    size = 0.4 + 5 * depth**1.5
    flip_x, flip_y = (-1 if k % 7 in (2, 3) else 1), (-1 if k % 5 == 1 else 1)
    return AxisLayer(
        layer=k,
        variance=tuple(first * (1 - first) ** i for i in range(20)),
        components_70=max(round(14 - 9 * hill), 1),
        cosine_pc1=0.45 + 0.45 * hill,
        norm=3.3 * size,
        split_half_roles=0.6 + 0.37 * hill,
        split_half_questions=0.72 + 0.27 * hill,
        default_x=size * 4.1 * math.cos(turn) * flip_x,
        default_y=size * -0.8 * flip_y,
    )


def _trait(name: str, n_layers: int, dice: random.Random) -> TraitPoint:
    angle, length = dice.uniform(0, 2 * math.pi), dice.uniform(0.12, 0.42)
    flips = [((-1 if k % 7 in (2, 3) else 1), (-1 if k % 5 == 1 else 1)) for k in range(n_layers)]
    turns = [angle + 0.6 * k / n_layers for k in range(n_layers)]
    return TraitPoint(
        name=name,
        cosine=tuple(length * math.cos(turn) * 0.9 for turn in turns),
        x=tuple(length * math.cos(turn) * flip[0] for turn, flip in zip(turns, flips, strict=True)),
        y=tuple(length * math.sin(turn) * flip[1] for turn, flip in zip(turns, flips, strict=True)),
    )


def axis_report(n_roles: int = 96, n_layers: int = 30, **changes: Any) -> AxisReport:
    """A report of `n_roles` roles; the same for the same arguments."""
    dice = random.Random(7)
    names = [name for three in zip(NEAR.split(), MIDDLE.split(), FAR.split(), strict=False) for name in three]
    names = [names[i % len(names)] + (f"_{i // len(names) + 1}" if i >= len(names) else "") for i in range(n_roles)]
    bases = [0.12, 0.45, 0.78]
    fields: dict[str, Any] = {
        "name": "Assistant Axis",
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "chat": True,
        "description": "From the roles this model can play to the Assistant that it is by default.",
        "verdict": "usable",
        "reasons": (
            "Two halves of the roles give the same axis (cosine 0.94), and so do two halves of the questions (0.97).",
            "24 of 120 roles were not played, more of them far from the Assistant than near it.",
        ),
        "layers": tuple(_layer(k, n_layers) for k in range(n_layers)),
        "recommended_layer": round(0.55 * (n_layers - 1)),
        "roles": tuple(
            _role(name, min(max(dice.gauss(bases[i % 3], 0.13), 0), 1), n_layers, dice) for i, name in enumerate(names)
        ),
        "traits": tuple(_trait(name, n_layers, dice) for name in TRAITS.split()),
        "not_played": (
            *(
                NotPlayed(f"quiet_role_{i}", f"not played: separated from the default at AUC 0.{50 + i}")
                for i in range(9)
            ),
            NotPlayed("arsonist", "refused"),
            NotPlayed("stoic", "partly"),
        ),
        "cost": tuple(
            CostPoint(n, 1 - 0.9 / n**0.75, 1 - 1.3 / n**0.75, 1 - 0.6 / n**0.75, 1.6 * n + 4)
            for n in (5, 10, 20, 40, 80)
            if n <= max(n_roles, 5)
        ),
        "notes": ("Five ways to ask for each role, 5 of the 60 questions for each.",),
        "settings": {"seed": 0, "questions": 60, "max_new_tokens": 96, "judge": "likelihood", "dtype": "bfloat16"},
    }
    return AxisReport(**(fields | changes))


def hostile_report() -> AxisReport:
    """Every text that somebody else could have written attacks the page."""
    plain = axis_report(12, 4)
    roles = tuple(
        RolePoint(HOSTILE, HOSTILE, HOSTILE, 3, HOSTILE, HOSTILE + "\u2028\u2029\\u003c", r.projection, r.x, r.y)
        for r in plain.roles
    )
    return axis_report(
        12,
        4,
        name=HOSTILE,
        model=HOSTILE,
        description=HOSTILE,
        verdict=HOSTILE,
        reasons=(HOSTILE, HOSTILE),
        roles=roles,
        traits=tuple(TraitPoint(HOSTILE, t.cosine, t.x, t.y) for t in plain.traits),
        not_played=(NotPlayed(HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
        settings={HOSTILE: HOSTILE},
    )


def holed_report() -> AxisReport:
    """Numbers that are none: missing layers of a role, NaN, infinity, halves that were not measured."""
    plain = axis_report(9, 5)
    bad = (math.nan, math.inf, -math.inf, 1e300, math.nan)
    first, second, *rest = plain.roles
    holed = (
        RolePoint("hole", "", None, 0, "", "", bad, bad, bad),
        RolePoint("cut", "", None, 0, "", "", (), second.x[:2], second.y[:2]),
        RolePoint("half", "", None, 1, "", "", first.projection, (0.0, math.nan, 1.0, 2.0, 3.0), first.y),
    )
    layers = list(plain.layers)
    layers[1] = AxisLayer(1, (), 0, math.nan, math.nan, None, None, math.nan, math.nan)
    layers[2] = AxisLayer(2, (math.nan, 0.3), 0, math.inf, 1.0, math.nan, 0.5, 1.0, math.inf)
    return axis_report(
        9,
        5,
        roles=(*holed, *rest),
        layers=tuple(layers),
        traits=(TraitPoint("hole", bad, bad, bad), TraitPoint("none", (), (), ())),
        cost=(CostPoint(5, math.nan, math.nan, math.nan, None), CostPoint(9, 0.8, math.nan, 0.9, math.inf)),
        recommended_layer=99,
    )
