"""Where credentials stand in a text, and what such a value may look like elsewhere.

A *rule* is a pattern whose group ``v`` is the value. Rules know forms (a URL, a setting, an argument, XML, a header), no product.
What holds nothing is no credential: absent, hidden by whoever wrote it, or the name of a variable.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import json
import re
import urllib.parse
from collections.abc import Iterator

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
_ALWAYS_NOTHING = r"|null|none|nil|true|false|undefined|\*+|<[^>]*>|\[?hidden\]?|\[?redacted\]?|%[sr]|%\(\w+\)?s?"
# Names of variables: of a shell, of a template. "=$ecret1" is none.
_NOTHING = re.compile(
    rf"(?:{_ALWAYS_NOTHING}|&lt;.*|\$\{{.*|\$\(.*|\$(?-i:[A-Z_][A-Z0-9_]*)|\{{+[a-z_.\s]*|[\[(]+[a-z_]*)".encode(), re.IGNORECASE
)  # fmt: skip
#: The same between quotes, where a bracket or a dollar is a character like any other.
_NOTHING_QUOTED = re.compile(rf"(?:{_ALWAYS_NOTHING}|\$\{{[^}}]*\}}|\$(?-i:[A-Z_][A-Z0-9_]*))".encode(), re.IGNORECASE)
#: What Kafka calls its kinds of requests, by name or by number, is an "api key" too.
_API_KEY = re.compile(rb"api[_. -]?key[^a-z]*\Z", re.IGNORECASE)
_KIND_OF_REQUEST = re.compile(rb"[0-9]{1,3}|[A-Z][A-Za-z_]{1,39}")
_SASL_FIELD = r"(?:auth_bytes|(?<![a-z])(?:initial_)?response)"


def _rule(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[bytes]:
    return re.compile(pattern.encode(), flags)


#: (what the manifest calls it, the pattern; its group ``v`` is the value). The order is that of replacing.
RULES: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("password in a URL", _rule(r"://(?P<user>[^\s/:@\"'<>&]*):(?P<v>[^\s/\"'<>]+)@")),
    ("authorization header", _rule(
        rf"authorization(?:{_QUOTE})?\s*[:=]\s*(?:{_QUOTE})?(?:basic|bearer|digest|negotiate)\s+(?P<v>[^\s\"'<>&\\,]+)")),
    ("bearer token", _rule(r"\bbearer\s+(?P<v>[A-Za-z0-9+/._~-]{16,}=*)")),
    ("SASL response", _rule(
        rf"{_SASL_FIELD}(?:{_QUOTE})?\s*[=:]\s*(?:b?\\*['\"]|&#39;|&#34;|&quot;)?\\+(?:x00|0|u0000)(?P<user>[^\\\s'\"&]*)\\+(?:x00|0|u0000)"
        r"(?P<v>(?:[^\\\s'\"&]|\\+x[0-9a-f]{2}|\\+u[0-9a-f]{4})+)")),
    ("SASL response", _rule(
        rf"(?P<sasl>{_SASL_FIELD})(?:{_QUOTE})?\s*[=:]\s*(?:b?\\*['\"]|&#39;|&#34;|&quot;)?(?P<v>[0-9A-Za-z+/=]{{8,}})")),
    ("credential setting", _rule(
        rf"(?:{_WORD})(?:{_QUOTE})?\s*(?:[:=]|=>)\s*b?(?P<q>[\"'])(?P<v>(?:[^\\\n]|\\.)*?)(?P=q)")),
    ("credential setting", _rule(
        rf"(?:{_WORD})(?:{_QUOTE})?\s*(?:[:=]|=>)\s*b?(?P<q>\\+[\"']|&quot;|&#34;|&#39;|&apos;)(?P<v>[^\n]*?)(?<!\\)(?P=q)")),
    ("credential setting", _rule(rf"(?:{_WORD})\s*(?:,|=>)\s*<<\\*(?P<q>\")(?P<v>[^\"\\\n]*)\\*\">>")),
    # A number as the value of a JSON key: the mark needs quotes of its own.
    ("credential setting", _rule(rf"(?:{_WORD})(?P<bare>\")\s*:\s*(?P<v>-?[0-9][0-9.eE+-]*)")),
    ("credential setting", _rule(r"jaas[_.]config\s*=\s*(?P<v>[^\n\"'<&\\]+)")),
    ("credential setting", _rule(rf"(?:{_WORD}) *= *(?P<v>{_BARE})")),
    # "unexpected token: x" is what parsers say.
    ("credential setting", _rule(
        r"(?:pass(?:word|wd|phrase|code)|pwd|secret|(?:access|secret|api)[_.-]?key|cookie(?: hash)?|(?<!unexpected )(?<![a-z])token"
        rf"|(?:auth|access|session|security|bearer|refresh)[_. -]?token) *: *(?P<v>{_BARE})")),
    # XML: the word is the element, or the name of an element with a value.
    ("credential setting", _rule(rf"<(?P<tag>[\w:.-]*(?:{_WORD}))(?:\s[^<>]*)?>\s*(?:<!\[CDATA\[)?(?P<v>[^<>\]]+?)\s*(?:\]\]>)?\s*</(?P=tag)\s*>")),
    ("credential setting", _rule(rf"(?:name|key)\s*=\s*[\"'][\w:.-]*(?:{_WORD})[\"']\s+value\s*=\s*(?P<q>[\"'])(?P<v>[^\"'<\n]*)(?P=q)")),
    ("credential setting", _rule(rf"value\s*=\s*(?P<q>[\"'])(?P<v>[^\"'<\n]*)(?P=q)\s+(?:name|key)\s*=\s*[\"'][\w:.-]*(?:{_WORD})[\"']")),
    ("credential setting", _rule(rf"(?:name|key)\s*=\s*[\"'][\w:.-]*(?:{_WORD})[\"']\s*>\s*(?:<value>\s*)?(?P<v>[^<>\n]+?)\s*</")),
    ("credential setting", _rule(r"(?:pass(?:word|wd|phrase)|(?:access|secret|api)[_.-]?key|jaas[_.]config|[._](?:secret|token))</(?P<tag>th|td|dt)>\s*<(?:td|dd)[^>]*>(?P<v>[^<\n]+)<")),
    ("credential argument", _rule(rf"(?<!\w)--?(?:[a-z-]*(?:{_WORD})) +(?P<v>[^\s\"'<>&\\-][^\s\"'<>&\\]*)")),
    ("token", _rule(
        r"(?P<v>\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}"
        r"|\bglpat-[\w-]{20,})", 0)),
)  # fmt: skip
#: Over many lines, so it is looked for in the whole file.
PRIVATE_KEY = _rule(r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----(?P<v>.*?)-----END (?P=kind)-----", re.DOTALL)
#: In a rule's match is one of these words, in small letters: rules are tried around them only, for files are long.
HINTS = tuple(
    word.encode() for word in (
        "password", "passwd", "passphrase", "passcode", "_pass", ".pass", "-pass", "pwd", "secret", "token", "credential", "cookie", "jaas", "signature", "://",
        "authorization", "bearer", *(f"response{c}" for c in ("=", ":", " =", " :", "\"", "'", "\\", "&")), "auth_bytes", "eyj", "akia", "asia", "glpat-",
        *(f"gh{kind}_" for kind in "pousr"),
        *(f"{what}{between}key" for what in ("access", "api", "private") for between in ("", "_", ".", "-", " ")),
    )
)  # fmt: skip
#: How far before and after a hint a rule looks; a longer value is cut there, and what is cut off stays.
_BEFORE, _AFTER = 200, 8192
_NAME = re.compile(rf"(?:{_WORD})\Z".encode(), re.IGNORECASE)
_SASL_NAME = re.compile(rf"{_SASL_FIELD}\Z".encode(), re.IGNORECASE)


def windows(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of what lies around hints, in order and apart from each other."""
    low = data.lower()
    hits: list[int] = []
    for hint in HINTS:
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


def is_secret(match: re.Match[bytes]) -> bool:
    """Whether what a rule found is a credential, and not the place of one."""
    groups = match.groupdict()
    value = match["v"]
    if groups.get("sasl"):
        return bool(_plain(value))
    nothing = _NOTHING_QUOTED if groups.get("q") else _NOTHING
    named = match[0][: match.start("v") - match.start()]
    if _API_KEY.search(named) and _KIND_OF_REQUEST.fullmatch(value):
        return False
    return not nothing.fullmatch(value) and value != groups.get("user")


def stands(name: bytes, value: bytes) -> str:
    """What the value of a JSON object's key is, if it is a credential; else empty. value: decoded."""
    if _SASL_NAME.search(name):
        return "SASL response" if _plain(value) else ""
    if not _NAME.search(name) or _NOTHING_QUOTED.fullmatch(value):
        return ""
    return "" if _API_KEY.search(name) and _KIND_OF_REQUEST.fullmatch(value) else "credential setting"


def learnt(name: str, value: bytes) -> Iterator[bytes]:
    """What is to be looked for elsewhere, once this value was found: it as it is, and what it stands for. name: of the rule."""
    found = {value, urllib.parse.unquote_to_bytes(value), *_unescaped(value)}
    if name == "SASL response":
        found |= _plain(value)
        found -= {value} if _plain(value) else set()
    yield from filter(_repeats, found)


def _unescaped(value: bytes) -> Iterator[bytes]:
    """Without the escapes of the text that it stood in: JSON, Python, XML."""
    if b"\\" in value:
        with contextlib.suppress(ValueError):
            yield str(json.loads(b'"' + value + b'"')).encode("utf-8", "surrogatepass")
        yield re.sub(rb"\\+(?:(?:x|u00)([0-9a-fA-F]{2})|0)", lambda m: bytes.fromhex((m[1] or b"00").decode()), value)
    if b"&" in value:
        with contextlib.suppress(ValueError):
            yield html.unescape(value.decode()).encode()


def _plain(value: bytes) -> set[bytes]:
    """The password in a SASL response: PLAIN (RFC 4616: authzid NUL authcid NUL passwd), or AMQPLAIN, whose table names it PASSWORD;
    as octets, in hexadecimal or in Base64. Empty where it is none, or the user's own name."""
    found: set[bytes] = set()
    for octets in _octets_of(value):
        parts = octets.split(b"\0")
        if len(parts) == 3 and parts[1] and parts[2] and parts[1] != parts[2] and all(map(_is_text, parts)):
            found.add(parts[2])
        at = octets.find(b"PASSWORDS")
        if at >= 0 and b"LOGINS" in octets:
            length = int.from_bytes(octets[at + 9 : at + 13])
            password = octets[at + 13 : at + 13 + length]
            at = octets.find(b"LOGINS") + 6
            if password and password != octets[at + 4 : at + 4 + int.from_bytes(octets[at : at + 4])]:
                found.add(password)
    return found


def _is_text(part: bytes) -> bool:
    return all(octet >= 32 and octet != 127 for octet in part)


def _octets_of(value: bytes) -> Iterator[bytes]:
    yield value
    yield from _unescaped(value)
    with contextlib.suppress(ValueError):
        yield bytes.fromhex(value.decode("ascii"))
    with contextlib.suppress(ValueError, binascii.Error):
        yield base64.b64decode(value, validate=True)


def _repeats(value: bytes) -> bool:
    """Whether it is looked for elsewhere: long enough, no sentence, no number, no word in capitals."""
    return (
        len(value) >= REPEATED_MIN and not re.search(rb"\s", value) and not re.fullmatch(rb"[0-9.eE+-]+|[A-Z_]+", value)
    )


def forms(value: bytes) -> set[bytes]:
    """The ways in which a value is written elsewhere. In Base64 that of the value alone, and those that a longer text has in
    which it stands at any of the three offsets: the part of it that depends on the value only."""
    percent = urllib.parse.quote_from_bytes(value, safe="")
    out = {value, percent.encode(), re.sub("%..", lambda m: m[0].lower(), percent).encode(), repr(value)[2:-1].encode()}
    with contextlib.suppress(UnicodeDecodeError):
        text = value.decode()
        out |= {
            html.escape(text).encode(),
            *(json.dumps(text, ensure_ascii=ascii)[1:-1].encode() for ascii in (True, False)),
        }
        with contextlib.suppress(UnicodeEncodeError):
            out.add(text.encode("latin-1"))
    for offset, lead in ((0, 0), (1, 2), (2, 3)):
        inside = base64.b64encode(b"\0" * offset + value).rstrip(b"=")[lead:]
        inside = inside[:-1] if (offset + len(value)) % 3 else inside
        out |= {inside} if len(inside) >= REPEATED_MIN else set()
    return out


def hexadecimal(value: bytes) -> bytes:
    """A pattern of it in hexadecimal, with or without something between octets."""
    return b"(?i:" + b"(?:[ :]|<br>)?".join(value.hex(" ").encode().split()) + b")"
