"""Takes credentials out of the files of a run, before somebody else gets them.

Two passes over all files: ``learn`` collects the values that stand where credentials stand (a URL's password, a setting
called ``…password``, a SASL response, a token); ``redact`` replaces them there, and everywhere else where a value of at
least ``REPEATED_MIN`` characters comes again: as it is, percent-encoded, in hexadecimal or in Base64 (a wire log has octets).

Text keeps its form: JSON stays JSON. In other files (a history) a value that comes again is written over, octet for octet,
so that every offset stays. What is left alone: a name's own word as password (``guest:guest`` protects nothing), and what is
empty or redacted already. A secret that stands in plain prose, in no form that is listed here, is not found.
"""

from __future__ import annotations

import base64
import html
import re
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field

MARK = b"[redacted]"
#: A shorter value is redacted where it stands only: "guest" is also a word.
REPEATED_MIN = 8

# update-secret is a method of AMQP.
_WORD = (
    r"pass(?:word|wd|phrase|code)(?:_hash)?|(?<=[_.-])pass(?![a-z])|pwd|(?<!update-)secret|(?:access|secret|api|private)[_. -]?key(?:[_. -]?id)?"
    r"|(?<![a-z])token|(?:auth|access|session|security|bearer|refresh)[_. -]?token|credentials?"
    r"|cookie(?: hash)?|jaas[_.]config|signature"
)
_QUOTE = r"\\*[\"']|&quot;|&#34;|&#39;|&apos;"
# A value without quotes ends here.
_BARE = r"[^\s\x00-\x1f\"'<>&;,|)}\]\\]+"
# What holds nothing: absent, hidden by whoever wrote it, or the name of a variable.
_NOTHING = re.compile(
    rb"(?:|null|none|nil|true|false|undefined|\*+|<[^>]*>|&lt;.*|\[?hidden\]?|\[?redacted\]?|\$.*|\{.*|\[.*|\(.*)",
    re.IGNORECASE,
)

#: The same between quotes, where a bracket or a dollar is a character like any other.
_NOTHING_QUOTED = re.compile(
    rb"(?:|null|none|nil|true|false|undefined|\*+|<[^>]*>|\[?hidden\]?|\[?redacted\]?|\$\{[^}]*\}|\$[A-Z_][A-Z0-9_]*)",
    re.IGNORECASE,
)


def _rule(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[bytes]:
    return re.compile(pattern.encode(), flags)


#: (what the manifest calls it, the pattern; its group ``v`` is the value). The order is that of replacing.
_RULES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("password in a URL", _rule(r"://(?P<user>[^\s/:@\"'<>&]*):(?P<v>[^\s/\"'<>]+)@")),
    ("authorization header", _rule(
        rf"authorization(?:{_QUOTE})?\s*[:=]\s*(?:{_QUOTE})?(?:basic|bearer|digest|negotiate)\s+(?P<v>[^\s\"'<>&\\,]+)")),
    ("bearer token", _rule(r"\bbearer\s+(?P<v>[A-Za-z0-9+/._~-]{16,}=*)")),
    ("SASL response", _rule(
        r"response(?:\s*[=:]\s*)(?:b?['\"]|&#39;|&#34;)?\\+(?:x00|0|u0000)(?P<user>[^\\\s'\"&]*)\\+(?:x00|0|u0000)"
        r"(?P<v>[^\\\s'\"&]+)")),
    ("credential setting", _rule(
        rf"(?:{_WORD})(?:{_QUOTE})?\s*(?:[:=]|=>)\s*b?(?P<q>[\"'])(?P<v>(?:[^\\\n]|\\.)*?)(?P=q)")),
    ("credential setting", _rule(
        rf"(?:{_WORD})(?:{_QUOTE})?\s*(?:[:=]|=>)\s*b?(?P<q>\\+[\"']|&quot;|&#34;|&#39;|&apos;)(?P<v>[^\n]*?)(?<!\\)(?P=q)")),
    ("credential setting", _rule(rf"(?:{_WORD})\s*(?:,|=>)\s*<<\\*(?P<q>\")(?P<v>[^\"\\\n]*)\\*\">>")),
    # A number as the value of a JSON key: the mark needs quotes of its own.
    ("credential setting", _rule(rf"(?:{_WORD})(?P<bare>\")\s*:\s*(?P<v>-?[0-9][0-9.eE+-]*)")),
    ("credential setting", _rule(r"jaas[_.]config\s*=\s*(?P<v>[^\n\"'<&\\]+)")),
    ("credential setting", _rule(rf"(?:{_WORD}) *= *(?P<v>{_BARE})")),
    ("credential setting", _rule(
        rf"(?:pass(?:word|wd|phrase)|secret|(?:access|secret|api)[_.-]?key|cookie(?: hash)?) *: *(?P<v>{_BARE})")),
    ("credential setting", _rule(r"(?:pass(?:word|wd|phrase)|(?:access|secret|api)[_.-]?key|jaas[_.]config|[._](?:secret|token))</(?P<tag>th|td|dt)>\s*<(?:td|dd)[^>]*>(?P<v>[^<\n]+)<")),
    ("credential argument", _rule(rf"(?<!\w)--?(?:[a-z-]*(?:{_WORD})) +(?P<v>[^\s\"'<>&\\-][^\s\"'<>&\\]*)")),
    ("token", _rule(
        r"(?P<v>\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}"
        r"|\bglpat-[\w-]{20,})", 0)),
)  # fmt: skip
#: Over many lines, so it is looked for in the whole file.
_PRIVATE_KEY = _rule(r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----(?P<v>.*?)-----END (?P=kind)-----", re.DOTALL)
#: In a rule's match is one of these words, in small letters: rules are tried around them only, for files are long.
_HINTS = tuple(
    word.encode() for word in (
        "password", "passwd", "passphrase", "passcode", "_pass", ".pass", "-pass", "pwd", "secret", "token", "credential", "cookie", "jaas", "signature", "://",
        "authorization", "bearer", "response=", "response:", "response =", "eyj", "akia", "asia", "glpat-",
        *(f"gh{kind}_" for kind in "pousr"),
        *(f"{what}{between}key" for what in ("access", "api", "private") for between in ("", "_", ".", "-", " ")),
    )
)  # fmt: skip
#: How far before and after a hint a rule looks; a longer value is cut there, and what is cut off stays.
_BEFORE, _AFTER = 200, 8192
REPEATED = "known value again"
_SNIFF_BYTES = 8192


@dataclass(slots=True)
class Redactor:
    """What has been learnt; ``learn`` every file first, then ``redact`` each."""

    _known: set[bytes] = field(default_factory=set)
    _repeated: tuple[re.Pattern[bytes], re.Pattern[bytes]] | None = None

    def learn(self, data: bytes) -> None:
        """Collects the credentials of one file."""
        if not is_text(data):
            return
        for begin, end in _windows(data):
            for _, rule in _RULES:
                for match in rule.finditer(data[begin:end]):
                    if _is_secret(match):
                        # A URL has it encoded, a setting as it is.
                        self._known |= {
                            v for v in (match["v"], urllib.parse.unquote_to_bytes(match["v"])) if _repeats(v)
                        }
        self._repeated = None

    def redact(self, data: bytes) -> tuple[bytes, Counter[str]]:
        """The file without them, and how many of each kind there were; the same octets where there were none."""
        counts: Counter[str] = Counter()
        if not is_text(data):
            out = (
                self._again()[1].sub(lambda m: _counted(counts, REPEATED, b"*" * len(m[0])), data)
                if self._known
                else data
            )
            return out, counts
        if b"PRIVATE KEY-----" in data:
            data = _PRIVATE_KEY.sub(lambda m: _replaced(m, "private key", counts), data)
        parts, done = [], 0
        for begin, end in _windows(data):
            part = data[begin:end]
            for name, rule in _RULES:
                part = rule.sub(lambda m, name=name: _replaced(m, name, counts), part)  # type: ignore[misc]  # a default binds it
            parts += [data[done:begin], part]
            done = end
        data = b"".join([*parts, data[done:]])
        if self._known:
            data = self._again()[0].sub(lambda m: _counted(counts, REPEATED, MARK), data)
        return data, counts

    def _again(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
        if self._repeated is None:
            # The longest first, or a value that begins with another would leave its end.
            words = sorted(
                {form for value in self._known for form in _forms(value)}, key=lambda form: (-len(form), form)
            )
            plain = b"|".join(re.escape(word) for word in words)
            octets = b"|".join(_octets(value) for value in sorted(self._known))
            self._repeated = (re.compile(plain + b"|" + octets), re.compile(plain))
        return self._repeated


def is_text(data: bytes) -> bool:
    """Whether it is read as text: no zero octet near its begin. A log with a few wrong octets is."""
    return b"\0" not in data[:_SNIFF_BYTES]


def _windows(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of what lies around hints, in order and apart from each other."""
    low = data.lower()
    hits: list[int] = []
    for hint in _HINTS:
        at = low.find(hint)
        while at >= 0:
            hits.append(at)
            at = low.find(hint, at + len(hint))
    out: list[tuple[int, int]] = []
    for at in sorted(hits):
        begin, end = max(0, at - _BEFORE), min(len(data), at + _AFTER)
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], end)
        else:
            out.append((begin, end))
    return out


def _is_secret(match: re.Match[bytes]) -> bool:
    nothing = _NOTHING_QUOTED if match.groupdict().get("q") else _NOTHING
    return not nothing.fullmatch(match["v"]) and match["v"] != match.groupdict().get("user")


def _repeats(value: bytes) -> bool:
    """Whether it is looked for elsewhere: long enough, and no sentence."""
    return len(value) >= REPEATED_MIN and not re.search(rb"\s", value) and not re.fullmatch(rb"[0-9.]+|[A-Z_]+", value)


def _replaced(match: re.Match[bytes], name: str, counts: Counter[str]) -> bytes:
    if not _is_secret(match):
        return match[0]
    counts[name] += 1
    begin, end = match.start("v") - match.start(), match.end("v") - match.start()
    mark = b'"' + MARK + b'"' if match.groupdict().get("bare") else MARK
    return match[0][:begin] + mark + match[0][end:]


def _counted(counts: Counter[str], name: str, instead: bytes) -> bytes:
    counts[name] += 1
    return instead


def _forms(value: bytes) -> set[bytes]:
    """The ways in which a value is written elsewhere. In Base64 that of the value alone, and those that a longer text has in
    which it stands at any of the three offsets: the part of it that depends on the value only."""
    out = {
        value,
        urllib.parse.quote_from_bytes(value, safe="").encode(),
        html.escape(value.decode("latin-1")).encode("latin-1"),
    }
    for offset, lead in ((0, 0), (1, 2), (2, 3)):
        inside = base64.b64encode(b"\0" * offset + value).rstrip(b"=")[lead:]
        inside = inside[:-1] if (offset + len(value)) % 3 else inside
        out |= {inside} if len(inside) >= REPEATED_MIN else set()
    return out


def _octets(value: bytes) -> bytes:
    """In hexadecimal, with or without something between octets."""
    return b"(?i:" + b"(?:[ :]|<br>)?".join(value.hex(" ").encode().split()) + b")"
