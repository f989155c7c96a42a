"""How the page looks: light and dark, on a phone and on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --soft: #5b6775; --paper: #fff; --card: #f4f6f9; --line: #d9dfe7;
  --good: #2b7fd4; --loss: #c8572b; --left: #9aa5b1 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #9aa7b5; --paper: #12171d; --card: #1b222b;
  --line: #323c48; --good: #5aa5ef; --loss: #e8835a; --left: #64707d } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem } h3 { font-size: 1rem }
p { margin: .4rem 0 } .note, figcaption { color: var(--soft); font-size: .9rem } code, pre { font-size: .85rem }
pre { overflow-x: auto; background: var(--card); padding: .6rem .8rem; border-radius: .4rem }
.wide { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem }
.tile { background: var(--card); border-radius: .4rem; padding: .5rem .8rem }
.tile b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0 2rem }
.bar { display: inline-block; height: .7rem; background: var(--good); border-radius: .1rem; max-width: 100% }
.state { border-left: .3rem solid var(--good); padding: .1rem .8rem; background: var(--card) }
.state.open { border-color: var(--loss) }
.wide > svg { min-width: 34rem } figure { margin: .6rem 0 }
figure img, svg { max-width: 100%; height: auto; display: block }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg .axis { stroke: var(--line) }
.good { fill: var(--good) } .loss { fill: var(--loss) } .left { fill: var(--left) }
@media print { :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --good: #2b7fd4;
  --loss: #c8572b; --left: #9aa5b1 } body { max-width: none; font-size: 11px }
  .wide > svg { min-width: 0 }
  h2 { break-after: avoid } figure, .tiles, tr { break-inside: avoid } details > * { display: block }
  * { print-color-adjust: exact } }
"""
