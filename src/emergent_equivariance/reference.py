"""Reference pages generated from the code.

config/reference.md from the typed sections of ``settings``, docs/reference/commands.md from the command line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .settings import STUDY_FILES, json_schema

if TYPE_CHECKING:
    import typer

HEAD = """\
# Study file reference

Generated from `src/emergent_equivariance/settings/` by `emeq schema`; do not edit. Every key but those of `study`,
`kind`, `sweep` and `tracking` can be swept: `sweep: {dotted.key: [values]}`. Unknown keys are errors.

Complete examples are the [shipped studies](README.md). `emeq new FILE.yaml` writes a commented study, `emeq validate`
checks it.
"""

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference_markdown() -> str:
    """Per kind of study the keys at the top; then one table per section: key, type, default, meaning."""
    definitions, parts = json_schema()["$defs"], [HEAD]
    sections: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, (model, _) in STUDY_FILES.items():
        study = definitions[model.__name__]
        first = {key: study["properties"][key] for key in ("study", "kind")}
        top = {"properties": dict(first), "required": study["required"]}
        for key, field in study["properties"].items():
            own = {(key, name): definitions[name] for name in _references(field)}
            sections |= own
            links = ", ".join(_link(key, section) for section in own.values())
            top["properties"][key] = {"description": links} | field if own else field
        parts.append(_table(f"Kind `{kind}`: top level", "", top, {}, study["description"]))
    for (key, _), section in sections.items():
        name = section["properties"].get("name", {}).get("const")
        title = f"`{key}: {{name: {name}}}`" if name else f"`{key}`"
        parts.append(_table(title, f"{key}.", section, definitions, section.get("description", "")))
    return "\n".join(parts)


def _link(key: str, section: dict[str, Any]) -> str:
    """To the section of a key; its anchor is what git hosts make of the title."""
    name = section["properties"].get("name", {}).get("const")
    return f"[{name}](#{key}-name-{name})" if name else f"[{key}](#{key})"


def _table(title: str, prefix: str, section: dict[str, Any], definitions: dict[str, Any], description: str) -> str:
    lines = [f"## {title}", ""]
    if description:
        lines += [" ".join(description.replace("``", "`").split()), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in _rows(prefix, section, definitions):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def _rows(prefix: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for key, field in section["properties"].items():
        if prefix and "const" in field:
            continue  # the name that selects the section stands in its title
        yield f"`{prefix}{key}`", _type(field), _default(key, field, section), field.get("description", "")
        for reference in _references(field) if definitions else ():
            yield from _rows(f"{prefix}{key}.", definitions[reference], definitions)


def _references(field: Any) -> list[str]:
    """Names of the definitions a field refers to, in order."""
    if isinstance(field, dict):
        own = [field["$ref"].rsplit("/", 1)[-1]] if "$ref" in field else []
        return own + [name for key, value in field.items() if key != "discriminator" for name in _references(value)]
    return [name for value in field for name in _references(value)] if isinstance(field, list) else []


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field or field.get("type") == "object":
        return "mapping"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    for choice in ("anyOf", "oneOf"):
        if choice in field:
            texts = [_type(option) for option in field[choice]]
            return " or ".join(dict.fromkeys(text for text in texts if f"list of {text}" not in texts))
    if field.get("type") == "array":
        if "prefixItems" in field:
            return "[" + ", ".join(_type(item) for item in field["prefixItems"]) + "]"
        return f"list of {_type(field['items'])}" if field.get("items") else "list"
    bounds = [f"{sign} {field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field]
    return " ".join([field.get("type", "any"), ", ".join(bounds)]).strip()


def _default(key: str, field: dict[str, Any], section: dict[str, Any]) -> str:
    if key in section.get("required", ()):
        return "required"
    if "default" in field:
        value = field["default"]
        if isinstance(value, dict) and key != "learning_rate":
            return f"`{value['kind']}`" if "kind" in value else "see below"
        return f"`{_yaml(value)}`"
    return {"array": "`[]`", "object": "`{}`"}.get(field.get("type", ""), "")


def _yaml(value: Any) -> str:
    return json.dumps(value).replace('"', "")


COMMANDS_HEAD = """\
# Command line

Generated from `src/emergent_equivariance/cli/` by `emeq schema`; do not edit. `emeq --help` and `emeq COMMAND --help`
say the same.
"""


def commands_markdown(program: typer.Typer) -> str:
    """Per panel of ``--help`` its subcommands: what each does, its usage, and a table of arguments and options."""
    from typer.main import get_command

    group: Any = get_command(program)  # typer's own copy of click is not typed
    panels: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        if not command.hidden:
            panels.setdefault(command.rich_help_panel, []).append(_command(f"emeq {name}", command))
    sections = [f"## {panel}\n\n" + "\n".join(commands) for panel, commands in panels.items()]
    return "\n".join([COMMANDS_HEAD, *sections])


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    paragraphs = [" ".join(paragraph.split()) for paragraph in command.help.split("\n\n")]
    usage = " ".join([name, *command.collect_usage_pieces(context)]).replace("{", "").replace("}", "")
    lines = [f"### {name}", "", *_spaced(paragraphs), "```text", usage, "```", ""]
    rows = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    if rows:
        lines += ["| argument or option | meaning | default, bounds |", "|---|---|---|"]
    for option, text in rows:
        meaning, _, extra = text.partition("  [")
        cells = f"`{option}`", " ".join(meaning.split()), extra.removesuffix("]")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _spaced(paragraphs: list[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in (paragraph, "")]
