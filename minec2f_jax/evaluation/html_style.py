"""How the report looks: light and dark, narrow and wide, on screen and on paper."""

# Of Okabe & Ito 2008, "Color Universal Design": can be told apart with any kind of colour vision.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_SERIES_ON_DARK = ("#56b4e9", "#f0883e", "#2fc79a", "#e7a3c6", "#8fb8ff", "#f2c14e")


def _series(colours) -> str:
  return "".join(f" --s{i}: {colour};" for i, colour in enumerate(colours))


_LIGHT = f"--paper: #fdfdfb; --ink: #1b1b1b; --faint: #5c5c5c; --line: #d8d8d4; --shade: #f1f1ec;{_series(SERIES)}"
_DARK = (
  f"--paper: #16181a; --ink: #e8e8e6; --faint: #a5a8aa; --line: #3a3e41; --shade: #212427;{_series(_SERIES_ON_DARK)}"
)
_DRAWN = "".join(
  f".line.s{i} {{ stroke: var(--s{i}); }} .dot.s{i}, .bar.s{i} {{ fill: var(--s{i}); }}\n" for i in range(len(SERIES))
)

STYLE = f""":root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }}
body {{
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem; }}
h2 {{ font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.05rem; margin: 1.6rem 0 .4rem; }}
h4 {{ font-size: .95rem; margin: 0; }}
p, ul, dl {{ margin: .5rem 0; max-width: 46rem; }}
a {{ color: var(--s0); }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; list-style: none; max-width: none; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; max-width: none; }}
dt {{ color: var(--faint); }}
dd {{ margin: 0; }}
.lead {{ font-size: 1.08rem; }}
.caption, figcaption, .why {{ color: var(--faint); font-size: .9rem; }}
.table {{ margin: .9rem 0 1.2rem; max-width: 100%; }}
.table .caption {{ margin: 0 0 .3rem; contain: inline-size; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .88rem; }}
th, td {{
  padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: normal;
}}
thead th {{ border-bottom: 2px solid var(--line); vertical-align: bottom; }}
tbody th {{ font-weight: 500; }}
.num {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
thead .num {{ white-space: normal; }}
.beside {{ display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }}
figure {{ margin: .6rem 0; width: 21rem; max-width: 100%; }}
svg {{ display: block; width: 100%; height: auto; }}
svg text {{ fill: var(--ink); font-size: 12px; }}
svg text.small {{ fill: var(--faint); font-size: 11px; }}
svg text.big {{ font-size: 19px; font-weight: 600; }}
svg text.note {{ font-size: 11px; }}
svg .grid {{ stroke: var(--line); stroke-width: 1; }}
svg .guide {{ stroke: var(--faint); stroke-width: 1; stroke-dasharray: 4 4; }}
svg .line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
svg .ring {{ fill: none; stroke: var(--ink); stroke-width: 2; }}
svg .right {{ fill: var(--s0); }}
svg .wrong {{ fill: var(--s1); }}
svg .cell {{ stroke: var(--line); stroke-width: 1; }}
{_DRAWN}.legend {{
  display: flex; flex-wrap: wrap; gap: .15rem 1rem; margin: .3rem 0; padding: 0; list-style: none; font-size: .9rem;
  max-width: none;
}}
.legend li {{ display: flex; align-items: center; gap: .4rem; }}
.legend svg, .legend img {{ width: 1.5rem; height: .9rem; flex: none; }}
.legend img.wide {{ width: 7rem; }}
.card {{ margin: 1rem 0 1.6rem; padding: .8rem; background: var(--shade); border-radius: .4rem; }}
.card p {{ margin: .1rem 0 .5rem; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(8.4rem, 1fr)); gap: .6rem; }}
.panels figure {{ margin: 0; width: auto; max-width: 14rem; }}
.panels figcaption {{ font-size: .8rem; line-height: 1.3; margin-top: .2rem; }}
img {{ image-rendering: pixelated; border: 1px solid var(--line); }}
.panels img {{ display: block; width: 100%; height: auto; }}
details {{ margin: .6rem 0; }}
summary {{ cursor: pointer; color: var(--s0); }}
pre {{ overflow-x: auto; padding: .8rem; background: var(--shade); font-size: .82rem; line-height: 1.4; }}
@media (max-width: 34rem) {{
  body {{ padding: 1rem .8rem 3rem; }}
  h1 {{ font-size: 1.35rem; }}
  dl {{ grid-template-columns: 1fr; gap: 0; }}
  dd {{ margin-bottom: .4rem; }}
  th, td {{ padding: .25rem .4rem; }}
  tbody th {{ position: sticky; left: 0; min-width: 5.5rem; background: var(--paper); }}
}}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} --paper: #fff; }}
  html {{ font-size: 9pt; }}
  body {{ max-width: none; padding: 0; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  nav {{ display: none; }}
  figure, .card, tr {{ break-inside: avoid; }}
  h2, h3, .caption {{ break-after: avoid; }}
  .scroll {{ overflow: visible; }}
  figure {{ width: 17rem; }}
  .beside {{ gap: 0 1.2rem; }}
  .panels {{ grid-template-columns: repeat(auto-fill, minmax(2.1cm, 1fr)); gap: .4rem; }}
  pre {{ white-space: pre-wrap; }}
}}
"""
