"""Numbers for people and monitors: values with names and labels, and the text that Prometheus reads.

Knows no source: who has numbers makes `Metric`s of them. The text is the exposition format 0.0.4,
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One quantity: its values by labels."""

    name: str  # with its unit, and _total if it is a counter
    kind: Literal["counter", "gauge"]
    help: str
    values: tuple[tuple[tuple[tuple[str, str], ...], float], ...]  # ((label, text), …), value


def single(name: str, kind: Literal["counter", "gauge"], help: str, value: float) -> Metric:
    """A quantity without labels."""
    return Metric(name, kind, help, (((), value),))


def labelled(
    name: str, kind: Literal["counter", "gauge"], help: str, label: str, values: Mapping[str, float]
) -> Metric:
    """A quantity with one label."""
    return Metric(name, kind, help, tuple((((label, text),), value) for text, value in values.items()))


def prometheus_text(metrics: Iterable[Metric]) -> str:
    """The metrics as Prometheus reads them."""
    lines: list[str] = []
    for metric in metrics:
        lines += (f"# HELP {metric.name} {_escaped(metric.help)}", f"# TYPE {metric.name} {metric.kind}")
        for labels, value in metric.values:
            inside = ",".join(f'{label}="{_escaped(text, quotes=True)}"' for label, text in labels)
            lines.append(f"{metric.name}{{{inside}}} {value:.10g}" if inside else f"{metric.name} {value:.10g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, *, quotes: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quotes else escaped
