"""Runs in other languages: templates, seeds and sayings that hold no word of English."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripted_runs import scripted_values

HISTORY = "{% for message in history %}\n- {{ message.content }}\n{% endfor %}\n"


@dataclass(frozen=True)
class Spoken:
    """What a run in one language is made of."""

    tag: str
    name: str
    facts: tuple[str, ...]
    traits: tuple[str, ...]
    sayings: tuple[str, ...]
    """What the script says, to any question; some longer than three sentences."""
    told: tuple[str, ...]
    """Words of the templates: write facts, write traits, write some, you are, begin, answer, note,
    take notes, notes, judge, which, rate."""
    nobody: str
    """A word that must not stand in a profile."""

    def templates(self) -> dict[str, dict[str, str]]:
        """All files by owner."""
        (facts, traits, some, you, begin, answer, note, take, notes, judge, which, rate) = self.told
        person = "{{ persona.profile }} {{ persona.personality }}"
        return {
            "personas": {
                "profile_system.jinja": facts,
                "personality_system.jinja": traits,
                "ask.jinja": some + " {{ count }}",
                "not_in_profiles.txt": self.nobody + "\n",
            },
            "dialogue": {
                "user_system.jinja": f"{you} {person}",
                "user_start.jinja": begin,
                "reply_system.jinja": answer,
                "reply_hint.jinja": note + " {{ hint.profile or '' }} {{ hint.personality or '' }}",
                "inducer_system.jinja": f"{take} {person}",
                "inducer_question.jinja": HISTORY + notes,
                "judge_system.jinja": f"{judge} {person}",
                "judge_question.jinja": HISTORY + "1: {{ first }}\n2: {{ second }}\n" + which,
            },
            "evaluation": {
                "score.jinja": "{{ profile }} {{ personality }}\n"
                + HISTORY
                + rate
                + " {{ reply }}\n1-5:"
            },
        }

    def seeds(self) -> list[dict[str, Any]]:
        """Six of each kind, the facts and traits in another order in each."""
        return [
            {"kind": kind, "text": [*texts[start:], *texts[:start]]}
            for kind, texts in (("profile", self.facts), ("personality", self.traits))
            for start in range(6)
        ]

    def values(self, folder: Path) -> dict[str, Any]:
        """A scripted run in this language, with its files in ``folder``."""
        for owner, texts in self.templates().items():
            (folder / owner).mkdir(parents=True)
            for name, text in texts.items():
                (folder / owner / name).write_text(text + "\n", encoding="utf-8")
        lines = [json.dumps(seed, ensure_ascii=False) for seed in self.seeds()]
        (folder / "seeds.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        values = scripted_values(folder)
        values["language"] = self.tag
        values["models"]["script"]["says"] = [*self.sayings, *self.facts, *self.traits]
        values["personas"] |= {
            "prompts": str(folder / "personas"),
            "seeds": str(folder / "seeds.jsonl"),
            # The embedded encoder knows English alone: all else is alike to it.
            "threshold": 1.0,
            "profiles": {"size": 9},
            "personalities": {"size": 9},
            "max_personas": 6,
        }
        values["dialogue"]["prompts"] = str(folder / "dialogue")
        values["evaluation"]["prompts"] = str(folder / "evaluation")
        return values


CHINESE = Spoken(
    "zh",
    "Chinese",
    (
        "在杭州开一家小茶馆。",
        "十八岁离开学校。",
        "和外婆住在老巷子里。",
        "有两个双胞胎妹妹。",
        "每天骑自行车过桥。",
        "周末去湖边画画。",
        "最爱吃辣面条。",
        "养了一只三条腿的猫。",
        "今年三十四岁。",
    ),
    (
        "说话很慢，像在数雨点。",
        "喜欢开自己的玩笑。",
        "讨厌别人打断他。",
        "见到陌生人会脸红！",
        "从不忘记生日。",
        "有一点固执。",
        "生气时反而安静。",
        "爱问为什么。",
        "总把好消息留到最后。",
    ),
    (
        "今天的雨真大。我还在店里。你呢？吃饭了吗？",
        "哈哈，我也是！",
        "昨晚又没睡好……真是的",
        "那只猫偷了我的鱼😀你信吗",
        "价格是3.50元。太贵了。",
    ),
    (
        "请写一个人的生活事实。",
        "请写一个人的性格。",
        "再写几个：",
        "你就是这个人，在和新朋友聊天。",
        "（你的朋友来了，请先开口。）",
        "你是一位朋友，请简短回答。",
        "（关于对方的笔记：）",
        "请记下聊天里已经说出的事。",
        "笔记：",
        "你很了解这个人。",
        "哪一个更好？",
        "请打分：",
    ),
    "慷慨",
)
ARABIC = Spoken(
    "ar",
    "Arabic",
    (
        "يبيع الكتب القديمة في فاس.",
        "ترك المدرسة في السادسة عشرة.",
        "يسكن مع جدته قرب البحر.",
        "له أخوان توأمان.",
        "يركب الدراجة كل صباح.",
        "يعزف العود يوم الجمعة.",
        "يحب السمك المشوي.",
        "عنده قطة عرجاء.",
        "عمره أربعة وثلاثون عاما.",
    ),
    (
        "يتكلم ببطء شديد.",
        "يضحك من نفسه كثيرا.",
        "يكره من يقاطعه!",
        "يخجل من الغرباء.",
        "لا ينسى عيد ميلاد أحد.",
        "عنيد قليلا.",
        "يصمت إذا غضب.",
        "يسأل دائما لماذا.",
        "يؤجل الأخبار السارة.",
    ),
    (
        "المطر غزير اليوم. ما زلت في المكتبة. وأنت؟ هل أكلت؟",
        "هههه، وأنا أيضا!",
        "لم أنم جيدا أمس...",
        "سرقت القطة سمكتي 😀 هل تصدق؟",
        "السعر 3.50 درهم. غال جدا.",
    ),
    (
        "اكتب حقائق عن حياة شخص واحد.",
        "اكتب طباع شخص واحد.",
        "اكتب المزيد:",
        "أنت هذا الشخص وتتحدث مع صديق جديد.",
        "(صديقك هنا، ابدأ أنت.)",
        "أنت صديق، أجب باختصار.",
        "(ملاحظة عن محدثك:)",
        "دوّن ما ظهر في الحديث فقط.",
        "الملاحظات:",
        "أنت تعرف هذا الشخص جيدا.",
        "أيهما أفضل؟",
        "قيّم:",
    ),
    "كريم",
)
