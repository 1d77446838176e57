"""The configuration of a run: what every YAML file in configs/ may say.

Unknown keys are refused. Every path may be local or an fsspec URL such as ``s3://bucket/key``.
Files and command-line overrides are read by `aloe.config_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import field_validator, model_validator

from aloe.config.generation import (
    ActorPool,
    Condition,
    DialogueConfig,
    EvaluationConfig,
    PersonasConfig,
    PoolGrowth,
    PreferenceKind,
    PreferencesConfig,
    ReportConfig,
    SelectConfig,
    TwinsConfig,
    VerifiableConfig,
)
from aloe.config.language import Language, language_of
from aloe.config.placements import Placement, Placements
from aloe.config.run import RayConfig, Resume, RunConfig, StorageConfig
from aloe.config.section import Section
from aloe.config.speakers import (
    EnginePool,
    JudgeConfig,
    ModelConfig,
    OpenAIModel,
    Price,
    Roles,
    Sampling,
    ScriptedModel,
    VerifiableModel,
    VllmModel,
    speaker_settings,
)
from aloe.config.training import (
    DpoConfig,
    GuardsConfig,
    Limit,
    OptimizerStage,
    PpoConfig,
    RewardConfig,
    RewardWeights,
    RoundsConfig,
    SftConfig,
    TrainingConfig,
    TrainingStage,
)
from aloe.verifiable.replies import ProgramPolicy

__all__ = [
    "ActorPool",
    "Condition",
    "Config",
    "DialogueConfig",
    "DpoConfig",
    "EnginePool",
    "EvaluationConfig",
    "GuardsConfig",
    "JudgeConfig",
    "Language",
    "Limit",
    "ModelConfig",
    "OpenAIModel",
    "OptimizerStage",
    "PersonasConfig",
    "Placement",
    "Placements",
    "PoolGrowth",
    "PpoConfig",
    "PreferenceKind",
    "PreferencesConfig",
    "Price",
    "RayConfig",
    "ReportConfig",
    "Resume",
    "RewardConfig",
    "RewardWeights",
    "Roles",
    "RoundsConfig",
    "RunConfig",
    "Sampling",
    "ScriptedModel",
    "Section",
    "SelectConfig",
    "SftConfig",
    "StorageConfig",
    "TrainingConfig",
    "TrainingStage",
    "TwinsConfig",
    "VerifiableConfig",
    "VerifiableModel",
    "VllmModel",
    "language_of",
    "speaker_settings",
    "speakers_of",
]


class Config(Section):
    """All of a run."""

    run: RunConfig
    """Where the run lies and what seeds it."""
    language: str = "English"
    """In which people are written and talk: an English name (German) or a tag (de, pt-BR)."""
    ray: RayConfig = RayConfig()
    """The cluster."""
    storage: StorageConfig = StorageConfig()
    """The server of s3:// paths."""
    models: dict[str, ModelConfig]
    """Named backends."""
    roles: Roles
    """Who speaks with which model."""
    judge: JudgeConfig = JudgeConfig()
    """How a judge's choices get probabilities."""
    personas: PersonasConfig
    """Persona pools and pairs."""
    dialogue: DialogueConfig = DialogueConfig()
    """Tree rollout."""
    preferences: PreferencesConfig = PreferencesConfig()
    """From trees to training rows."""
    training: TrainingConfig
    """SFT, reward model, DPO and PPO."""
    placements: Placements = Placements()
    """Which devices each model of the training gets."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The ALOE benchmark."""
    report: ReportConfig = ReportConfig()
    """The HTML page."""

    @field_validator("language")
    @classmethod
    def _is_a_language(cls, value: str) -> str:
        language_of(value)
        return value

    @model_validator(mode="after")
    def _is_english_where_needed(self) -> Config:
        if language_of(self.language).code != "en":
            if self.personas.openings:
                raise ValueError(
                    "personas.openings: its first words are English, expected false with "
                    f"language: {self.language}"
                )
            for key in ("verifiable", "twins"):
                if getattr(self.personas, key).count:
                    raise ValueError(
                        f"personas.{key}: its preferences are told and checked in English, "
                        f"expected count: 0 with language: {self.language}"
                    )
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        used = {f"roles.{k}": v for k, v in self.roles.model_dump().items()}
        if self.personas.writer is not None:
            used["personas.writer"] = self.personas.writer
        for name, target in self.evaluation.policies.items():
            if target.startswith("model:"):
                used[f"evaluation.policies.{name}"] = target.removeprefix("model:")
        for key, name in used.items():
            if name not in self.models:
                raise ValueError(
                    f"{key} names {name!r}, expected one of models: {', '.join(self.models)}"
                )
        self._programs_have_parts(used)
        self._selection_has_hints()
        if self.run.max_cost_usd is not None:
            _prices_known({name: self.models[name] for name in used.values()})
        ppo = self.training.ppo
        if ppo is not None and ppo.rewards.model and self.training.reward is None:
            raise ValueError("training.ppo.rewards.model is set: expected training.reward")
        checking = {
            "training.ppo.rewards.verifiable is set": ppo is not None and ppo.rewards.verifiable,
            "roles.judge is verifiable": isinstance(self.models[self.roles.judge], VerifiableModel),
            "preferences.sft_min_met is set": self.preferences.sft_min_met,
        }
        for key, checks in checking.items():
            if checks and not self.personas.checkable:
                raise ValueError(
                    f"{key}: expected personas.verifiable.count of at least 1, or of personas.twins"
                )
        self._conditions_hold()
        if self.evaluation.baseline not in self.evaluation.policies:
            raise ValueError("evaluation.baseline must be one of evaluation.policies")
        return self

    def _conditions_hold(self) -> None:
        """Whether what policies are to be measured under can be had."""
        twins = self.personas.twins
        for name, condition in self.evaluation.conditions.items():
            if condition.reads in ("twin", "topics") and (
                not twins.planned or twins.hints != "program"
            ):
                raise ValueError(
                    f"evaluation.conditions.{name}.reads: {condition.reads} expects personas.twins "
                    "with hints: program"
                )
            if condition.reads in ("notes", "persona") and not twins.planned:
                raise ValueError(
                    f"evaluation.conditions.{name}.reads: {condition.reads} expects personas.twins "
                    "with planned hints"
                )
        for name, target in self.evaluation.policies.items():
            if target in ("rounds", "dpo", "ppo") and getattr(self.training, target) is None:
                raise ValueError(
                    f"evaluation.policies.{name}: {target} is not trained, as training.{target} is "
                    "null"
                )
            if not target.startswith("program:"):
                continue
            known = get_args(ProgramPolicy)
            if target.removeprefix("program:") not in known:
                raise ValueError(
                    f"evaluation.policies.{name}: {target}, expected program: and one of "
                    f"{', '.join(known)}"
                )
            if not twins.planned:
                raise ValueError(
                    f"evaluation.policies.{name}: {target} expects personas.twins with planned "
                    "hints"
                )

    def _programs_have_parts(self, used: Mapping[str, str]) -> None:
        """Whether a program speaks only where it can. ``used``: model name by key."""
        twins = self.personas.twins
        roles = {"roles.judge"}
        if twins.planned:
            roles |= {"roles.user", "roles.inducer"}
        for key, name in used.items():
            if isinstance(self.models[name], VerifiableModel) and key not in roles:
                raise ValueError(
                    f"{key} names {name!r}, but a verifiable model can only judge, and play user "
                    "and inducer of personas.twins whose hints are planned"
                )
        if twins.count and _names_a_program(self, "user") != (twins.hints == "program"):
            raise ValueError(
                f"personas.twins.hints: {twins.hints} does not go with roles.user "
                f"{self.roles.user!r}, expected a verifiable model for program, another for the "
                "rest"
            )
        if twins.count and self.dialogue.start:
            raise ValueError(
                "dialogue.start: expected none with personas.twins, who share all that is said "
                "before they differ"
            )

    def _selection_has_hints(self) -> None:
        """Whether what goes by hints, or by the twin's words, has them."""
        twins = self.personas.twins
        if self.dialogue.select is not None:
            if not twins.planned:
                raise ValueError(
                    "dialogue.select: expected personas.twins with planned hints, as it goes by "
                    "what has been hinted at"
                )
            judged = {"sft_min_met": 0.0, "sft_rows": "all", "drop_disagreements": False}
            for name, default in judged.items():
                if getattr(self.preferences, name) != default:
                    raise ValueError(
                        f"preferences.{name}: expected {default} with dialogue.select, where SFT "
                        "learns what was selected and nothing is judged"
                    )
        if self.preferences.twins and (self.dialogue.select is None or twins.hints != "program"):
            raise ValueError(
                "preferences.twins: expected dialogue.select, and personas.twins with hints: "
                "program, whose twins can be asked what they would have said"
            )
        if self.training.rounds is not None:
            if not twins.planned:
                raise ValueError(
                    "training.rounds: expected personas.twins with planned hints, as replies are "
                    "selected by what has been hinted at"
                )
            if "dpo" in self.training.rounds.steps and twins.hints != "program":
                raise ValueError("training.rounds.steps: dpo expects personas.twins.hints: program")
            if not isinstance(self.models[self.roles.unguided], VllmModel):
                raise ValueError(
                    f"training.rounds: roles.unguided is {self.roles.unguided!r}, expected a vLLM "
                    "model, which serves each round's checkpoint"
                )


def _names_a_program(config: Config, role: str) -> bool:
    return isinstance(config.models[getattr(config.roles, role)], VerifiableModel)


def _prices_known(models: dict[str, ModelConfig]) -> None:
    """Whether a limit in dollars can be held: servers send bills, the other backends may."""
    for name, model in models.items():
        if isinstance(model, OpenAIModel) and model.price is None:
            raise ValueError(
                f"run.max_cost_usd is set: expected models.{name}.price ({{}} if it is free)"
            )
    if not any(getattr(model, "price", None) for model in models.values()):
        raise ValueError("run.max_cost_usd is set: expected the price of at least one of models")


def speakers_of(config: Config, names: list[str]) -> dict[str, ModelConfig]:
    """The models of these names, each once."""
    return {name: config.models[name] for name in dict.fromkeys(names)}
