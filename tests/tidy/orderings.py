"""Every ordered atomic operation is one end of a named edge: `// PUBLISH slot: why` at the release,
`// OBSERVE slot: why` at the acquire. The word in capitals says what this end does, the name after
it which edge it is (`// EPOCH: why`, `// EPOCH, see wake()`: a name of its own). The name is spoken
at least twice in the file's comments, or the comment names the file where the other end is."""

import re

import functions

ORDERED = re.compile(
    r"\bmemory_order(?:_|::)(acquire|release|acq_rel|seq_cst|consume)\b|\batomic_thread_fence\b"
)
IMPLICIT = re.compile(
    r"[\w)\]](?:\.|->)(?:load\(\s*\)|fetch_(?:add|sub|or|and|xor)\(|compare_exchange_(?:weak|strong)\()"
)
VERB = r"\b([A-Z][A-Z_]{2,}(?:[ ,/&+]+[A-Z][A-Z_]{2,})*)"
EDGE = re.compile(VERB + r"((?: [a-z0-9_-]+){0,4})(?::|, see\b)")
MENTION = re.compile(VERB + r"((?: [a-z0-9_-]+){0,4})")
PARTNER = re.compile(r"\b[\w/]+\.(?:hpp|cpp)\b")
REACH = 3


def comment_of(line):
    at = line.find("//")
    return line[at:] if at >= 0 else ""


def block_at(lines, index):
    """The comment block that ends at lines[index], as one text; '' if that is no comment line."""
    first = index
    while first >= 0 and lines[first].lstrip().startswith("//"):
        first -= 1
    return " ".join(text.strip() for text in lines[first + 1 : index + 1])


def comments_near(lines, index):
    """Comments that may speak of lines[index]: its own, and those up to REACH code lines above."""
    near = [comment_of(lines[index])]
    for above in range(index - 1, max(-1, index - 1 - REACH), -1):
        text = lines[above].strip()
        if text.startswith("//"):
            near.append(block_at(lines, above))
            break
        near.append(comment_of(lines[above]))
        if not text:
            break
    return near


def names(comment):
    """The edges a comment names: their lower-case name, or the capitals where it has none."""
    return [low.strip() or high for high, low in EDGE.findall(comment)]


def mentions(lines, name):
    """How often comments speak of an edge, as `VERB name` or as the bare capitals."""
    count = 0
    for line in lines:
        for high, low in MENTION.findall(comment_of(line)):
            count += f"{low} ".startswith(f" {name} ") or name == high
    return count


def statement(code, offset):
    """The text of the call whose '(' is at or after offset, brackets matched."""
    depth = 0
    for i in range(code.index("(", offset), len(code)):
        depth += (code[i] == "(") - (code[i] == ")")
        if depth == 0:
            return code[offset : i + 1]
    return code[offset:]


def implicit(code):
    """Yields the lines of atomic operations that do not say their order."""
    for match in IMPLICIT.finditer(code):
        if "memory_order" not in statement(code, match.start()):
            yield code.count("\n", 0, match.start()) + 1


def check(lines):
    """Yields (line, what) for one file."""
    text = "\n".join(lines)
    code = functions.blank(text)
    for number, line in enumerate(code.split("\n"), 1):
        if not ORDERED.search(line):
            continue
        near = comments_near(lines, number - 1)
        edges = [name for comment in near for name in names(comment)]
        if not edges:
            yield number, "ordering: no named edge (// PUBLISH what: why) at an ordered operation"
        elif not any(mentions(lines, e) > 1 for e in edges) and not any(map(PARTNER.search, near)):
            yield number, f"ordering: edge '{edges[0]}' has no other end here and names no file"
    for number in implicit(code):
        yield number, "ordering: an atomic operation that does not say its memory order"
