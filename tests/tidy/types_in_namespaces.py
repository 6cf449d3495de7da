"""Finds the types that C++ text defines in named namespaces, by their braces."""

import re

import functions

NAMESPACE = re.compile(r"\s*(?:inline\s+)?namespace\b\s*([\w:]*)\s*$")
TYPE = re.compile(
    r"\b(?:class|struct|union|enum(?:\s+class|\s+struct)?)\s+"
    r"(?:(?:alignas\s*\([^)]*\)|\[\[[^\]]*\]\])\s*)*"
    r"(\w+)\s*(?:final\s*)?(?::(?!:).*)?$",
    re.S,
)


def types(text):
    """Yields (line, namespace::name) of every definition that other files could have too: not of
    what is inside of types, functions or unnamed namespaces, nor of specialisations and members."""
    text = functions.blank(text)
    scopes = []  # a namespace's name, "" for an unnamed one, None for any other brace
    begin = 0
    for found in re.finditer(r"[{};]", text):
        head = text[begin : found.start()]
        begin = found.end()
        if found.group() == "}":
            if scopes:
                scopes.pop()
            continue
        if found.group() == ";":
            continue
        space = NAMESPACE.match(head)
        if space:
            scopes.append(space.group(1))
            continue
        kind = TYPE.search(functions.strip_templates(head)) if all(scopes) else None
        if kind and "(" not in head[: head.rfind(kind.group(1))].replace("alignas(", ""):
            yield text.count("\n", 0, found.start()) + 1, "::".join([*scopes, kind.group(1)])
        scopes.append(None)
