"""Finds functions in C++ text by their braces: no parser, but right about formatted code."""

import re

NOISE = re.compile(
    r'R"(?P<mark>[^ ()\\\n]{0,16})\((?:.|\n)*?\)(?P=mark)"'  # raw strings
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'"  # not a digit separator
    r"|//(?:\\\n|[^\n])*|/\*(?:.|\n)*?\*/"
    r"|^[ \t]*#(?:\\\n|[^\n])*",
    re.M,
)
SCOPE = re.compile(r"\b(namespace|class|struct|union|enum)\b|^extern\s*$")
TEMPLATE = re.compile(r"^\s*template\s*<")
ATTRIBUTES = re.compile(r"\b(alignas|noexcept|decltype|requires|__attribute__)\s*\(")


def blank(text):
    """The text without comments, strings and preprocessor lines, every line where it was."""

    def spaces(match):
        kept = re.sub(r"[^\n]", " ", match.group())
        return '""' + kept[2:] if match.group()[0] in "\"'R" and len(kept) > 1 else kept

    return NOISE.sub(spaces, text)


def template_end(head):
    """Where the parameters after a leading `template <` end."""
    depth = 0
    for i in range(head.index("<"), len(head)):
        depth += {"<": 1, ">": -1, "(": 1, ")": -1}.get(head[i], 0)
        if depth == 0:
            return i + 1
    return len(head)


def strip_templates(head):
    while TEMPLATE.match(head):
        head = head[template_end(head) :]
    return head


def parameters(head):
    """(name, number of parameters) of the function whose text before its body is `head`."""
    head = strip_templates(head)
    head = re.sub(r"operator\s*\(\s*\)", "operator_call", head)
    head = ATTRIBUTES.sub(lambda m: " " * len(m.group()), head)
    found = re.search(r"(operator\s*[^\s(\w]+|~?[\w:]+)\s*\(", head)
    if not found:
        return "?", 0
    depth, commas, empty = 1, 0, True
    for i in range(found.end(), len(head)):
        c = head[i]
        depth += 1 if c in "([{<" else -1 if c in ")]}" or (c == ">" and head[i - 1] != "-") else 0
        if depth == 0:
            break
        empty = empty and c.isspace()
        commas += c == "," and depth == 1
    return found.group(1), 0 if empty else commas + 1


def kind(head, inside_function):
    """What a brace after `head` opens: 'scope', 'function' or 'block' (anything else)."""
    if inside_function:
        return "block"
    bare = strip_templates(head).strip()
    if SCOPE.search(re.sub(r"\([^()]*\)", "", bare).split("(")[0]):
        return "scope"
    if bare.endswith("=") or (bare and "(" not in bare):
        return "block"
    return "function"


def functions(text):
    """Yields (line, name, lines, parameters) for each function body at namespace or class level."""
    code = blank(text)
    stack, line, start, head_line = [], 1, 0, 1
    for i, c in enumerate(code):
        line += c == "\n"
        if c not in ";{}":
            continue
        head = code[start:i]
        if c == "{":
            inside = any(k == "function" for k, *_ in stack)
            argument = not inside and head.count("(") > head.count(")")
            first = head_line + head[: len(head) - len(head.lstrip())].count("\n")
            stack.append(("argument" if argument else kind(head, inside), first, head))
        elif c == "}" and stack:
            what, first, opened = stack.pop()
            argument = what == "argument"
            if what == "function":
                yield (first, *with_count(opened, line - first + 1))
        else:
            argument = False
        if not argument:  # braces among a function's parameters are part of its head
            start, head_line = i + 1, line


def with_count(head, lines):
    name, count = parameters(head)
    return name, lines, count
