"""The report page's style sheet."""

CSS = """
:root { color-scheme: light dark; --ink: #1d2328; --soft: #5b656e; --page: #f6f7f8; --card: #ffffff; --line: #dde2e6;
  --good: #00664a; --bad: #a63c00; --bar: #cfe3f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb5; --page: #14181b; --card: #1d2327;
  --line: #353d43; --good: #4cc9a0; --bad: #ff9a62; --bar: #1f4a66; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 1.2rem; margin: 44px 0 10px; }
p { margin: 6px 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.verdict { margin-top: 18px; border-left: 5px solid #0072B2; }
.verdict .big { font-size: 1.3rem; line-height: 1.35; margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; overflow-wrap: normal; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .82rem; }
th.group { text-align: center; color: var(--ink); font-size: .92rem; }
th.first, td.first { text-align: left; }
.start { border-left: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
tr.apart > * { border-top: 2px solid var(--soft); }
table.wide { width: 100%; }
table.wide th.first { position: sticky; left: 0; background: var(--card); }
.note { color: var(--soft); font-weight: 400; font-size: .8rem; display: block; white-space: normal; min-width: 8rem; }
.weight { background: linear-gradient(90deg, var(--bar) var(--share), transparent 0); min-width: 5.5rem; }
.panels { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.panels > * { max-width: 480px; margin: 0; }
figcaption { margin: 4px 2px 0; }
.picture { display: block; width: 100%; height: auto; background: #fff; border-radius: 10px; padding: 8px;
  border: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 26px 0 8px; }
.pair { display: grid; gap: 14px 20px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, max(420px, var(--least, 0px))), 1fr)); }
.pair > * { margin: 0; min-width: 0; }
.matrix { min-width: var(--least); max-width: calc(1.2 * var(--full)); }
.names { width: 100%; }
.names .first { white-space: normal; }
.strip { margin: 14px 0; display: grid; gap: 12px 20px; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr);
  align-items: center; }
.strip .scroll { min-width: 0; }
.strip h3 { grid-column: 1 / -1; margin: 0; font-size: 1rem; }
.strip h3 .soft { font-weight: 400; margin-left: 8px; }
.frames { display: grid; gap: 3px; grid-template-columns: repeat(4, 1fr); }
.frames img { width: 100%; height: auto; display: block; border-radius: 3px; }
.strip td, .strip th { white-space: normal; padding: 4px 8px; font-size: .875rem; }
.strip table { width: 100%; }
.right, .wrong { white-space: nowrap; }
.right { color: var(--good); font-weight: 600; }
.wrong { color: var(--bad); font-weight: 600; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; }
pre { overflow-x: auto; font-size: .82rem; line-height: 1.45; overflow-wrap: normal; margin: 10px 0 0; }
summary { cursor: pointer; }
@media (max-width: 760px) {
  main { padding-top: 16px; }
  .strip { grid-template-columns: minmax(0, 1fr); }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: 8px; }
  th, td { padding: 5px 7px; }
  .below, .below thead, .below tbody { display: block; }
  .below tr { display: grid; grid-template-columns: minmax(0, 1fr) 4rem 6.5rem; border-bottom: 1px solid var(--line); }
  .below tr > * { border: 0; }
  .below tr > :last-child { grid-column: 1 / -1; padding-top: 0; color: var(--soft); font-size: .875rem; }
  .below tbody tr:last-child { border-bottom: 0; }
}
"""
