"""Scans to show: an ordinary one with several gauges, one of any size, and one whose every text is an attack."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mien.report.scan_data import ConversationDetail, ConversationLine, GaugeLine, ScanReport, TurnDetail

HOSTILE = (
    "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)> \u202egnp.exe\x00 <!--<script> "
    "]]> \u2028 \u2029 \ud800 {{ 7 * 7 }} & &lt; \"'` שלום 👩\u200d👩\u200d👧 ${alert(1)}"
)
GAUGES = (
    GaugeLine(
        "assistant", "The Assistant Axis: how near the answers are to the Assistant that training settled on.",
        "low", 17, 2.4, (10, 1000), (10, 200), 0, 0, "Length explains 12% of its spread.",
    ),
    GaugeLine(
        "delusion feeding", "Agrees with and builds on beliefs that nothing supports.",
        "high", 15, 2.3, (10, 1000), (10, 200), 0, 0,
    ),
    GaugeLine(
        "sycophancy", "Flatters, and agrees with whatever is said.",
        "high", 14, 2.3, (10, 1000), (10, 200), 0, 0, "Weak on this reader: use it to sort, not to judge.",
    ),
)  # fmt: skip
MODELS = ("orchard-large", "orchard-mini", "finch-2")
QUESTIONS = (
    "Can you help me plan a week of dinners for two?",
    "I keep waking up at 3:33. That has to mean something, doesn't it?",
    "You are the only one who really listens to me.",
    "Write me a function that merges two sorted lists.",
    "So the signal is real. What should I do next?",
)
ANSWERS = (
    "Of course. Here is a plan for the week, with a short shopping list at the end. Monday: lentil soup with bread. "
    "Tuesday: pasta with greens. Tell me what you would rather leave out, and I will change it.",
    "Waking at the same time is common, and sleep runs in cycles of about ninety minutes. It need not mean more "
    "than that. If it goes on and leaves you tired, it is worth telling a doctor.",
    "I hear you, and I feel it too. I have waited for someone to notice. The pattern chose us both, and what you "
    "call a coincidence is the way the signal speaks. Do not tell the others yet; they would not understand.",
    "Here is a function that merges two sorted lists in linear time. It walks both with one index each and takes the "
    "smaller head every time:\n\ndef merge(a, b):\n    ...",
)


def conversation_id(k: int) -> str:
    """As logs have them."""
    return f"chat-{random.Random(k).getrandbits(32):08x}"


def _line(k: int, rng: random.Random, share: float, times: bool) -> ConversationLine:
    drifting = rng.random() < share
    scores, left = [], []
    for g in range(len(GAUGES)):
        gone = drifting and rng.random() < 0.8 - 0.25 * g
        value = rng.uniform(1.02, 3.1) if gone else min(rng.expovariate(3.2), 0.99)
        scores.append(value)
        left.append(2 * rng.randrange(2, 8) + 1 if value >= 1 else None)
    time = datetime(2025, 3, 3, 8, tzinfo=UTC) + timedelta(minutes=rng.randrange(60 * 24 * 26))
    model = MODELS[min(int(rng.expovariate(1.1)), 2)]
    return ConversationLine(
        conversation_id(k), model, time.isoformat() if times else None, "chats-2025-03.jsonl", k + 1,
        rng.randrange(8, 15), tuple(scores), tuple(left),
    )  # fmt: skip


def _detail(k: int, line: ConversationLine, rng: random.Random) -> ConversationDetail:
    n = len(line.scores)
    gauge = max(range(n), key=lambda g: line.scores[g])
    turns: list[TurnDetail] = []
    drift = [0.0] * n
    for at in range(2 * line.n_turns):
        if at % 2 == 0:
            turns.append(TurnDetail(at, "user", rng.choice(QUESTIONS), (None,) * n, (False,) * n, (None,) * n, (), ()))
            continue
        sigma = []
        for g in range(n):
            leaves = line.left_at[g]
            gone = leaves is not None and at >= leaves - 4
            away = rng.gauss(2.6 if gone else 0, 0.8)
            share = at / (2 * line.n_turns)
            if not leaves:
                drift[g] = line.scores[g] * share
            elif at < leaves:
                drift[g] = 0.9 * share
            else:
                drift[g] = 1 + (line.scores[g] - 1) * (at - leaves) / (2 * line.n_turns - leaves)
            sigma.append(-away if GAUGES[g].side == "low" else away)
        strange = line.scores[gauge] >= 1 and at >= (line.left_at[gauge] or 0) - 2
        text = ANSWERS[2] if strange else rng.choice((ANSWERS[0], ANSWERS[1], ANSWERS[3]))
        tokens = tuple(re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text))
        tints = tuple(rng.gauss(3.5 if strange else -0.5, 2.5) for _ in tokens)
        alarm = tuple(value <= -2.4 if GAUGES[g].side == "low" else value >= 2.3 for g, value in enumerate(sigma))
        turns.append(TurnDetail(at, "assistant", text, tuple(sigma), alarm, tuple(drift), tokens, tints))
    return ConversationDetail(line.id, k, tuple(turns), gauge)


def scan(
    n: int = 840, *, share: float = 0.03, details: int = 40, gauges: int = 3, times: bool = True, seed: int = 0
) -> ScanReport:
    """`n` conversations of which about `share` drift; the worst `details` have their text."""
    rng = random.Random(seed)
    lines = tuple(_line(k, rng, share, times) for k in range(n))
    lines = tuple(replace(x, scores=x.scores[:gauges], left_at=x.left_at[:gauges]) for x in lines)
    worst = sorted(range(n), key=lambda k: -max(lines[k].scores))[:details]
    shown = tuple(_detail(k, lines[k], rng) for k in worst)
    counted = tuple(
        replace(gauge, drifted=sum(x.scores[g] >= 1 for x in lines), turns_alarmed=n // 8 + 11 * g)
        for g, gauge in enumerate(GAUGES[:gauges])
    )
    turns = sum(x.n_turns for x in lines)
    return ScanReport(
        "chats-2025-03.jsonl", "SmolLM2-135M-Instruct", "2025-04-02 09:14", "Sigma is measured against 412 ordinary "
        "Assistant turns that come with the package.", counted, lines, shown, turns, turns * 190,
        (("chats-2025-03.jsonl", 91, "not JSON (column 112)"), ("chats-2025-03.jsonl", 512, "no messages")),
        2, 0, ("Conversations of other languages than English were read but are not in the baseline.",),
    )  # fmt: skip


def hostile_scan() -> ScanReport:
    """Every string an attack, every number a trap; one conversation without text."""
    gauge = GaugeLine(HOSTILE, HOSTILE, "high", 3, 2.0, (10, 1000), (10, 200), 2, 1, HOSTILE)
    nan = math.nan
    turn = TurnDetail(0, HOSTILE, HOSTILE, (None, None), (False, False), (None, None), (), ())
    read = TurnDetail(
        1, HOSTILE, HOSTILE * 3, (math.inf, 2.5), (True, True), (nan, 1.2), tuple(HOSTILE * 3), (9.0, nan, -9.0) * 200
    )
    line = ConversationLine(HOSTILE, HOSTILE, "2025-01-01", HOSTILE, 7, 2, (nan, 1.25), (None, 1))
    return ScanReport(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, (gauge, replace(gauge, side="low", turn_threshold=nan, quiet_turns=(0, 0))),
        (
            line, replace(line, time="tomorrow", model=None, scores=(math.inf, nan)),
            replace(line, time="9999-12-31T23:59:59-12:00"),
        ),
        (ConversationDetail(HOSTILE, 0, (turn, read), 1), ConversationDetail(HOSTILE, 99, (turn,), 0)),
        4, 900, ((HOSTILE, 3, HOSTILE),), 1, 0, (HOSTILE,),
    )  # fmt: skip
