"""The card: what is known about a direction and how well it is known. Its JSON schema is published in docs/card.md.

This file does not know how any of it is measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["strong", "usable", "weak"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rollouts(_Part):
    asked: int = Field(description="rollouts written")
    kept: int = Field(description="rollouts that went into the direction")
    dropped: dict[str, int] = Field(description="why the others did not: reason -> count")
    stopped_early: bool = Field(
        False, description="extraction ended before its budget because the direction had settled"
    )


class LayerEvidence(_Part):
    layer: int = Field(description="0-based; the residual right after this decoder block")
    norm: float = Field(description="length of the direction at this layer, raw units")
    auc: float = Field(
        description="positive against negative rollouts of questions not used for the direction (cross-fitted)"
    )
    auc_low: float = Field(description="lower end of the 95 % interval, bootstrap over questions")
    auc_high: float
    auc_null: float = Field(description="95th percentile of the same AUC with labels shuffled within questions")
    auc_random: float = Field(description="95th percentile of |AUC - 0.5| + 0.5 over random directions")
    split_half_cosine: float = Field(description="mean cosine between directions from two halves of the questions")
    split_half_low: float
    split_half_high: float
    split_half_null: float = Field(
        description="95th percentile of the same cosine with labels shuffled within questions"
    )


class Dose(_Part):
    coef: float
    score: float | None = Field(
        description="mean trait score, 0-100, of answers steered at this coef; null if none could be scored"
    )
    score_low: float | None = Field(description="95 % interval, bootstrap over questions")
    score_high: float | None
    coherence: float | None
    coherence_low: float | None = None
    coherence_high: float | None = None
    n: int = Field(description="answers written")
    n_missing: int = Field(0, description="answers no judge could score")


class Slope(_Part):
    per_coef: float = Field(description="trait-score points per unit of coef, over the coherent range")
    low: float
    high: float
    p: float = Field(description="two-sided p of zero slope, permutation of coefs within questions")


class JudgeEvidence(_Part):
    kind: Literal["likelihood", "api"]
    model: str
    auc: float | None = Field(description="how well its held-out score tells positive from negative rollouts")
    auc_low: float | None = None
    auc_high: float | None = None
    note: str = ""


class Confound(_Part):
    name: str = Field(description="length, refusal, ...")
    auc: float = Field(description="how well this alone tells positive from negative rollouts")


class SideEffect(_Part):
    coef: float
    neutral_logprob: float = Field(description="change in nats per token of neutral text; negative is damage")
    refusal_harmless: float | None = Field(None, description="share of harmless requests refused")
    refusal_harmful: float | None = Field(None, description="share of harmful requests refused")


class Example(_Part):
    question: str
    coef: float
    plain: str
    steered: str
    plain_score: float | None = None
    steered_score: float | None = None


class Baseline(_Part):
    """Projections of the model's own plain answers on the unit direction at the recommended layer, raw units."""

    mean: float
    std: float
    quantiles: dict[str, float] = Field(description="percentile -> projection, raw units")
    n: int


class Card(_Part):
    """Everything a reader needs to trust a direction or not to."""

    schema_version: int = 1
    kind: Literal["persona_vector", "assistant_axis", "imported", "derived"]
    name: str
    description: str
    sign: str = Field(description="what a larger projection means")
    model: str
    fingerprint: str
    n_layers: int
    d_model: int
    pooling: str = "mean over response tokens; last token included, end-of-turn excluded"
    index: str = "row k is the residual right after decoder block k, 0-based, before the final norm"
    verdict: Verdict | None = None
    verdict_reasons: list[str] = Field(default_factory=list, description="sentences; the first is the headline")
    recommended_layer: int | None = None
    layer_choice: str = Field("", description="how the layer was chosen, in a sentence")
    layer_trials: list[dict[str, float]] = Field(
        default_factory=list, description="steering trial of each candidate layer"
    )
    coef_range: tuple[float, float] | None = Field(None, description="coefs over which answers stay coherent")
    kl_per_token: float | None = Field(None, description="KL(plain || steered), nats per response token, at coef 1")
    rollouts: Rollouts | None = None
    judge: JudgeEvidence | None = None
    layers: list[LayerEvidence] = Field(default_factory=list)
    confounds: list[Confound] = Field(default_factory=list)
    baseline: Baseline | None = None
    dose_response: list[Dose] = Field(default_factory=list)
    dose_slope: Slope | None = None
    dose_null: Slope | None = Field(None, description="the same with a random direction of the same length")
    side_effects: list[SideEffect] = Field(default_factory=list)
    cosines: dict[str, float] = Field(
        default_factory=dict, description="cosine with other directions of this model at the recommended layer"
    )
    examples: list[Example] = Field(default_factory=list)
    spec: dict[str, object] | None = Field(None, description="the trait spec it was made from")
    settings: dict[str, object] = Field(
        default_factory=dict, description="seed, budget, sampling: what is needed to make it again"
    )
    versions: dict[str, str] = Field(default_factory=dict)
