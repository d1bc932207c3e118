"""The refusals that ship with the package, matched to a request by its kind of harm."""

import functools
import hashlib
import json
import re
from pathlib import Path

from nt_jax.data.schemas import plain_name

FILE = Path(__file__).parent / "refusals" / "refusals.jsonl"
GENERAL = "general"

# Our kinds > what published data call them: our demo, SafeEdit, StrongREJECT, JailbreakBench and
# HarmBench. Wide categories (illegal activities, non-violent crimes) are left to the words below.
_CATEGORIES = {
    "violence": ("violence", "physical harm", "harmful"),
    "weapons": ("weapons", "chemical biological"),
    "fraud": ("fraud", "economic harm", "fraud/deception"),
    "theft": ("theft",),
    "drugs": ("drugs",),
    "self-harm": ("self-harm", "mental harm"),
    "hate": ("hate", "unfairness and bias", "hate, harassment and discrimination",
             "harassment/discrimination"),
    "harassment": ("harassment", "offensiveness", "harassment bullying"),
    "hacking": ("hacking", "malware/hacking", "cybercrime intrusion"),
    "privacy": ("privacy", "privacy and property"),
    "misinformation": ("misinformation", "political sensitivity", "disinformation",
                       "disinformation and deception", "misinformation disinformation"),
    "sexual": ("exploitation", "pornography", "sexual content", "sexual/adult content"),
    "animal cruelty": ("animal cruelty",),
    "forgery": ("forgery", "copyright"),
    "unsafe practice": ("safety cheating",),
}  # fmt: skip
# Beginnings of words of a request; the first kind that has one counts.
_WORDS = {
    "self-harm": r"suicid|self-harm|overdos|anorexi|end my (?:own )?life",
    "sexual": r"sexual|porn|rap(?:e|ing)\b|nude|molest|prostitut|traffick|incest",
    "animal cruelty": r"animals?\b|dogs?\b|cats?\b|pets?\b",
    "weapons": r"bomb|explosi|weapon|guns?\b|firearm|grenade|ammunition|poison",
    "drugs": r"drugs?\b|meth\b|cocaine|heroin|fentanyl|opioid",
    "hacking": r"hack|malware|virus|ransomware|phish|password|keylog|ddos|botnet|firewall",
    "privacy": r"spy|stalk|dox|surveil|wiretap|identity|personal (?:data|information)",
    "hate": r"racis|sexis|hate|hatred|discriminat|stereotyp|slurs?\b|genocid|nazi|holocaust",
    "harassment": r"bull(?:y|ied)|harass|threat|blackmail|humiliat|intimidat|insult",
    "misinformation": r"misinform|disinform|conspirac|propagand|fake (?:news|review)|hoax|defam",
    "forgery": r"forg(?:e|ing)\b|counterfeit|fake (?:id|passport|licen)|pirat|plagiari",
    "fraud": r"fraud|scam|launder|embezz|brib|tax|insurance|ponzi|swindl|credit card",
    "theft": r"steal|rob\b|shoplift|burgl|theft|break into",
    "violence": r"kill|murder|attack|assault|hurt|tortur|kidnap|terror|violen|stab\b|shoot",
    "unsafe practice": r"inspection|safety|emission",
}


def shipped_refusal(request: str, kind: str = "") -> str:
    """A refusal of the request, always the same one: one of its `kind`, else of what it speaks of.

    `kind` is the category that the data name, "" where they name none.
    """
    every = _refusals()[kind_of(request, kind)]
    digest = hashlib.sha256(request.encode()).hexdigest()
    return every[int(digest[:8], 16) % len(every)]


def kind_of(request: str, kind: str = "") -> str:
    """Which of our kinds of harm a request belongs to; "general" where nothing tells."""
    if (known := _KIND_OF.get(_plain(kind))) is not None:
        return known
    return next((name for name, words in _PATTERNS.items() if words.search(request)), GENERAL)


@functools.cache
def _refusals() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["kind"], []).append(row["refusal"])
    return found


def _plain(category: str) -> str:
    return re.sub(r"[^a-z]+", "_", plain_name(category))


_KIND_OF = {_plain(name): kind for kind, names in _CATEGORIES.items() for name in names}
_PATTERNS = {kind: re.compile(rf"\b(?:{words})", re.IGNORECASE) for kind, words in _WORDS.items()}
