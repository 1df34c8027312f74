"""How a number, a difference, a verdict and a table look in Markdown. What was not run says so."""

from collections.abc import Iterable, Sequence

from scripts.experiments.bars import Bar
from scripts.experiments.samples import Sample

NOT_RUN = "not run"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table; all columns but the first few, which are words, are aligned to the right."""
    lines = [header, [*["---"] * words, *["---:"] * (len(header) - words)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(sample: Sample, seeds: Sequence[int], digits: int = 2) -> str:
    """Mean ± deviation, and how many seeds if not all."""
    if not len(sample):
        return NOT_RUN
    some = f" ({len(sample)} of {len(seeds)} seeds)" if len(sample) < len(seeds) else ""
    spread = f" ± {sample.std:.{digits}f}" if len(sample) > 1 else ""
    return f"{sample.mean:.{digits}f}{spread}{some}"


def signed(sample: Sample, seeds: Sequence[int]) -> str:
    """A difference in points."""
    return f"{'+' if len(sample) and sample.mean >= 0 else ''}{shown(sample, seeds)}"


def verdict(bar: Bar) -> str:
    """What came of a bar, in a word or two."""
    if bar.met is None:
        return bar.remark or NOT_RUN
    words = "met" if bar.met else f"**missed by {-(bar.margin or 0.0):.2f}**"
    return f"{words} ({bar.remark})" if bar.remark else words


def image(file: str, caption: str) -> str:
    """A picture in Markdown."""
    return f"![{caption}](experiments/{file})\n\n*{caption}*"
