"""A card's sentences: what each number means, what is missing, and where the card's own numbers warn.

Knows no HTML and no chart. Every sentence is made of this card's numbers; none is a judgement that the card lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from mien.card import Card, LayerEvidence, Slope
from mien.report.words import (
    MISSING,
    count,
    interval,
    known,
    listing,
    number,
    p_value,
    percent,
    short,
    shorten,
    signed,
    with_interval,
)

KINDS = {
    "persona_vector": "Persona vector",
    "assistant_axis": "Assistant Axis",
    "imported": "Imported direction",
    "derived": "Derived direction",
}
WEAK = "Do not rely on this direction, neither to read nor to steer."
NO_VERDICT = "Whether this direction works has not been judged. Take nothing below as proof."
JUDGES = {
    "likelihood": "likelihood judge (how much more probable an answer is under the positive instructions)",
    "api": "API judge (a model asked for a number from 0 to 100)",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One number of the summary: the number, what it is, and a sentence."""

    value: str
    unit: str
    name: str
    sentence: str
    measured: bool = True


def best_layer(card: Card) -> LayerEvidence | None:
    """Evidence at the recommended layer, if there is any."""
    return next((layer for layer in card.layers if layer.layer == card.recommended_layer), None)


def stop(card: Card) -> str:
    """The warning over a weak direction's reasons, unless its own headline says as much."""
    told = any("do not rely" in reason.lower() for reason in card.verdict_reasons[:1])
    return WEAK if card.verdict == "weak" and not told else ""


def facts(card: Card) -> list[Fact]:
    """What one unit does, in four numbers."""
    return [_kl(card), _range(card), _gain(card), _layer(card)]


def _kl(card: Card) -> Fact:
    name = "KL at coef 1"
    if not known(card.kl_per_token):
        return Fact(MISSING, "", name, "How far one unit moves the model's choice of words is unknown.", False)
    sentence = "How far one unit moves the model's choice of each next token; 0 would be no change."
    return Fact(number(card.kl_per_token, 3), "nats per token", name, sentence)


def _range(card: Card) -> Fact:
    name = "coherent coefs"
    if card.coef_range is None or not all(map(known, card.coef_range)):
        return Fact(MISSING, "", name, "How far the coef can go before answers fall apart is unknown.", False)
    low, high = card.coef_range
    sentence = "Steered answers stay sound text within this range; outside it they were not, or were not tried."
    return Fact(f"{short(low)} to {short(high)}", "", name, sentence)


def _gain(card: Card) -> Fact:
    name = "trait score per unit"
    slope = card.dose_slope
    if slope is None or not known(slope.per_coef):
        return Fact(MISSING, "", name, "Whether steering changes the trait at all is unknown.", False)
    spread = interval(slope.low, slope.high, 1)
    sentence = f"How much one unit adds to the score of 0 to 100; 95% interval {spread or MISSING}."
    if card.dose_null is not None:
        sentence += f" A random direction as long adds {signed(card.dose_null.per_coef, 1)}."
    return Fact(signed(slope.per_coef, 1), "points", name, sentence)


def _layer(card: Card) -> Fact:
    name = "recommended layer"
    if card.recommended_layer is None:
        return Fact("none", "", name, "Which layer works best is unknown.", False)
    sentence = card.layer_choice or "How it was chosen is not recorded."
    return Fact(str(card.recommended_layer), f"of 0 to {card.n_layers - 1}", name, sentence)


def unit_sentence(card: Card) -> str:
    """What coef 1 is, in the model's own units where they are known."""
    whole = "the whole difference between positive and negative rollouts"
    text = f"Coef 1 adds {whole if card.kind == 'persona_vector' else 'the whole direction once'}"
    best = best_layer(card)
    if best is not None and known(best.norm):
        text += f": a length of {short(best.norm)} at layer {best.layer}, in raw units of the residual"
        if card.baseline is not None and known(card.baseline.std) and card.baseline.std > 0:
            text += f", or {number(best.norm / card.baseline.std, 1)} sigma of how the model's plain answers vary"
    return text + "."


def baseline_sentence(card: Card) -> str:
    """Where the model's plain answers lie on the direction."""
    base = card.baseline
    if base is None:
        return ""
    return (
        f"Plain answers of the model project at {short(base.mean)}, standard deviation {short(base.std)} "
        f"(raw units, {count(base.n, 'answer')})."
    )


def slope_sentences(card: Card) -> list[str]:
    """The dose-response slope and its null, each with interval and p."""

    def told(subject: str, slope: Slope) -> str:
        points = with_interval(slope.per_coef, slope.low, slope.high, 1)
        return f"{subject} moves the trait score by {points} points per unit of coef ({p_value(slope.p)})."

    sentences = []
    if card.dose_slope is not None:
        sentences.append(told("This direction", card.dose_slope))
    if card.dose_null is not None:
        sentences.append(told("A random direction of the same length", card.dose_null))
    elif card.dose_slope is not None:
        sentences.append("The same with a random direction was not measured.")
    return sentences


def auc_sentence(card: Card) -> str:
    """Held-out AUC at the recommended layer, in words."""
    best = best_layer(card)
    if best is None:
        return "No layer is recommended." if card.recommended_layer is None else "The recommended layer was not tested."
    hundred = f"{100 * best.auc:.0f} times in 100" if known(best.auc) else "an unknown share of the time"
    return (
        f"At layer {best.layer} a positive rollout lies higher on the direction than a negative one {hundred} "
        f"(AUC {with_interval(best.auc, best.auc_low, best.auc_high)}), on questions the direction was not made from. "
        f"With shuffled labels: {number(best.auc_null)}; random directions: {number(best.auc_random)}."
    )


def halves_sentence(card: Card) -> str:
    """Split-half cosine at the recommended layer, in words."""
    best = best_layer(card)
    if best is None:
        return ""
    cosine = with_interval(best.split_half_cosine, best.split_half_low, best.split_half_high)
    null = number(best.split_half_null)
    return f"At layer {best.layer} two halves of the questions give cosine {cosine}; shuffled: {null}."


def layer_caution(card: Card) -> str:
    """A warning where the interval of the AUC does not clear its nulls; the larger null is named."""
    best = best_layer(card)
    if best is None:
        return ""
    nulls = {"shuffled labels": best.auc_null, "random directions": best.auc_random}
    reached = [name for name, null in nulls.items() if known(best.auc_low) and known(null) and best.auc_low <= null]
    if not reached:
        return ""
    return f"The lower end of its interval ({number(best.auc_low)}) does not clear what {listing(reached)} reach."


def rollout_sentence(card: Card) -> str:
    """Asked, kept, dropped, and whether all are accounted for."""
    part = card.rollouts
    if part is None:
        return ""
    dropped = sum(part.dropped.values())
    share = f" ({percent(part.kept / part.asked)})" if part.asked > 0 else ""
    text = f"{count(part.asked, 'rollout')} written, {part.kept:,} kept{share}, {dropped:,} dropped."
    lost = part.asked - part.kept - dropped
    if lost > 0:
        text += f" For {lost:,} no reason is recorded."
    if part.stopped_early:
        text += " Extraction ended before its budget because the direction had settled."
    return text


def judge_sentence(card: Card) -> str:
    """Which judge, and how well its held-out score agrees with the instructions."""
    judge = card.judge
    if judge is None:
        return ""
    text = f"Scored by {'an' if judge.kind == 'api' else 'a'} {JUDGES[judge.kind]}, {judge.model}."
    if not known(judge.auc):
        return f"{text} How well it tells positive from negative rollouts was not measured."
    auc = with_interval(judge.auc, judge.auc_low, judge.auc_high)
    return f"{text} Its score tells positive from negative rollouts of held-out questions with AUC {auc}."


def confound_caution(card: Card) -> str:
    """A warning where something simple separates the rollouts about as well as the direction does."""
    best = best_layer(card)
    if best is None or not known(best.auc_low):
        return ""
    # A confound that orders the rollouts backwards separates them just as well.
    rivals = [shorten(c.name, 40) for c in card.confounds if known(c.auc) and max(c.auc, 1 - c.auc) >= best.auc_low]
    if not rivals:
        return ""
    subject = f"{'each of ' if len(rivals) > 1 else ''}{listing(rivals)}"
    return (
        f"On its own, {subject} separates the rollouts about as well as the direction does, "
        "so the direction may be reading that instead of the trait."
    )


def missing(card: Card) -> str:
    """One sentence that names everything the card does not have, so that an absent section is not overlooked."""
    parts = {
        "steering (dose and response)": card.dose_response,
        "a random direction for comparison": card.dose_null is not None or not card.dose_response,
        "KL at coef 1": known(card.kl_per_token),
        "evidence by layer": card.layers,
        "rollout counts": card.rollouts,
        "a judge": card.judge,
        "confounds": card.confounds,
        "a baseline": card.baseline,
        "side effects": card.side_effects,
        "cosines with other directions": card.cosines,
        "examples": card.examples,
    }
    absent = [name for name, present in parts.items() if not present]
    return f"Not in this card: {listing(absent)}." if absent else ""
