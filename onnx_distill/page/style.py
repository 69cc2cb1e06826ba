"""The page's style sheet: light and dark by the reader's choice, a phone's width, and paper.

Contrast (WCAG): text at least 4.5 to 1 on its ground in both, lines and marks of charts at least 3 to 1.
"""

COLOURS = {  # name: (light, dark)
    "ground": ("#ffffff", "#15181c"),
    "ink": ("#1b1f24", "#e6e9ec"),
    "soft-ink": ("#57606a", "#a3acb6"),
    "panel": ("#f4f6f8", "#1f242a"),
    "line": ("#d4d9df", "#3a424b"),
    "first": ("#b0500c", "#f2a261"),
    "second": ("#12688a", "#6cc4e4"),
    "good": ("#1a7036", "#6fcf8a"),
    "bad": ("#b3261e", "#ff9a8f"),
}


def _variables(shade: int) -> str:
    return " ".join(f"--{name}: {values[shade]};" for name, values in COLOURS.items())


def _stacked(width: str, tables: str) -> str:
    """Lines of these tables stacked, each cell beside its head, on pages of at most this width."""
    return f"""
@media screen and (max-width: {width}) {{
  {tables}, {tables} tbody, {tables} tr, {tables} th, {tables} td {{ display: block }} {tables} thead {{ display: none }}
  {tables} tr {{ border-bottom: 1px solid var(--line); padding: .5rem 0 }} {tables} th, {tables} td {{ border: 0; padding: .1rem 0 }}
  {tables} tbody th {{ font-weight: 700 }} {tables} td {{ display: flex; justify-content: space-between; gap: 1rem; max-width: 26rem }}
  {tables} td::before {{ content: attr(data-head); color: var(--soft-ink) }} }}"""


STYLE = (
    f":root {{ color-scheme: light; {_variables(0)} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {_variables(1)} }} }}"
    """
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p { margin: .4rem 0; max-width: 54rem } .soft, figcaption { color: var(--soft-ink); font-size: .875rem }
a { color: var(--second) } nav { margin: 1rem 0 0; font-size: .875rem } nav a { margin-right: 1rem; white-space: nowrap }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0 0; padding: 0 }
.cards div { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem }
.cards dt { font-size: .8rem; color: var(--soft-ink) } .cards dd { margin: 0 } .cards b { font-size: 1.45rem; line-height: 1.3 }
.cards small { display: block; font-size: .8rem; color: var(--soft-ink) }
.scroll { overflow-x: auto; margin: .6rem 0 } .scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--second) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { padding-left: 0 } tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem } .stacks td { white-space: normal } thead th { font-size: .8rem; color: var(--soft-ink); font-weight: 600; vertical-align: bottom }
.left { text-align: left } td.left { white-space: normal; overflow-wrap: anywhere; min-width: 5rem } tbody th { font-weight: 400; text-align: left } tr.mark th, tr.mark td { font-weight: 700 }
.good { color: var(--good) } .bad { color: var(--bad) }
.bar { display: inline-block; width: 4.5rem; height: .7em; background: var(--panel); vertical-align: baseline; margin-left: .6rem }
.bar i { display: block; height: 100%; background: var(--first) } .bar.activation i { background: var(--second) }
svg { display: block; width: 100%; height: auto } .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem } .panels > div { max-width: 28rem }
.panels.halves { grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)) } .panels.halves > div { max-width: 36rem }
.square svg { max-width: 34rem; min-width: 20rem }
.beside { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start } .beside > div { flex: 1 1 18rem; min-width: 0 } .beside > figure { flex: 1 1 22rem; min-width: 0; margin: 0 }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1.25rem 1rem; margin: .8rem 0 }
figure { margin: 0; break-inside: avoid } figcaption { line-height: 1.4; margin-top: .3rem; overflow-wrap: anywhere } figcaption b { color: var(--ink) }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--panel) } img.small { image-rendering: pixelated }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; margin: .6rem 0; font-size: .8125rem; white-space: pre-wrap; overflow-wrap: anywhere }
dl.pairs { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .875rem; margin: .6rem 0 }
dl.pairs dt { color: var(--soft-ink) } dl.pairs dd { margin: 0; overflow-wrap: anywhere }
pre.columns { columns: 17rem }
summary { cursor: pointer; margin: .6rem 0 }
@media (max-width: 40rem) { body { padding: 1.25rem 1rem 3rem } th, td { padding: .3rem .5rem } dl.pairs { grid-template-columns: 1fr } dl.pairs dt { margin-top: .3rem } }
"""
    + _stacked("58rem", ".stacks:not(.few)")
    + _stacked("42rem", ".stacks.few")
    + """
@media print { body { max-width: none; padding: 0; font-size: 11px } nav { display: none } .scroll { overflow: visible } .square svg { min-width: 0 }
  h2, h3 { break-after: avoid } .cards div, svg, tr { break-inside: avoid } th, td { padding: .15rem .45rem } details::details-content { content-visibility: visible; block-size: auto }
  .panels { grid-template-columns: repeat(3, 1fr) } .images { grid-template-columns: repeat(6, 1fr) } @page { margin: 14mm } }
"""
)
