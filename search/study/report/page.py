"""The page of a study: one HTML document, readable without scripts; text is escaped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape

from search.study.report.charts import curves, importance, slices, values
from search.study.report.facts import Facts
from search.study.report.tables import cost, head, trials
from viz.html import BASE, document

Panel = Callable[[Facts], str]
PANELS: dict[str, Panel] = {
    "Trials": trials,
    "Best slices side by side": slices,
    "Learning curves": curves,
    "Importance": importance,
    "Score by searched value": values,
    "Cost": cost,
}
"""The panels below the head, in this order. An empty panel is left out."""
_log = logging.getLogger(__name__)


def study_page(facts: Facts) -> str:
    """Return the whole document. A panel that fails is left out with a warning."""
    parts = [head(facts)]
    for title, panel in PANELS.items():
        try:
            content = panel(facts)
        except Exception as error:  # noqa: BLE001  (a picture must never hide the rest)
            _log.warning("report: %s can't be shown: %s: %s", title, type(error).__name__, error)
            content = f'<p class="note">It can\'t be shown: {escape(str(error))}</p>'
        if content:
            parts.append(f"<section><h2>{escape(title)}</h2>\n{content}</section>")
    parts.append('<div id="said" role="status" aria-live="polite"></div>')
    return document(f"Study {facts.name}", STYLE, parts, SCRIPT)


# -- Colours, layout and script of a study's page ----------------------------------------------

STYLE = (
    BASE
    + """
.chip { font-size: .62em; border-radius: .7em; padding: .1em .7em; vertical-align: middle;
  color: #fff; background: #5b6470; }
.chip.running { background: #00704f; } .chip.finished { background: #005f96; }
.chip.stopped { background: #a83a00; }
.tiles { display: flex; flex-wrap: wrap; gap: .5em; margin: .8em 0; }
.tile { background: var(--card); border-radius: .5em; padding: .45em .8em; min-width: 5.2em; }
.tile b { display: block; font-size: 1.08em; } .tile span { color: var(--soft); font-size: .85em; }
dl.setup { display: grid; grid-template-columns: max-content 1fr; gap: .1em 1em; margin: .6em 0;
  font-size: .9em; } dl.setup dt { color: var(--soft); }
dl.setup dd { margin: 0; overflow-wrap: anywhere; }
.tall { max-height: 44em; overflow-y: auto; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td.plain { white-space: nowrap; } td.reason { min-width: 17em; max-width: 30em; }
tr.best td { background: var(--card); } tr.on td { background: var(--line); }
.state { white-space: nowrap; }
.state::before { content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .4em;
  border-radius: .2em; background: var(--waiting); }
.state.complete::before { background: var(--complete); }
.state.pruned::before { background: var(--pruned); }
.state.failed::before { background: var(--failed); }
.state.running::before { background: var(--running); }
.state.interrupted::before { background: var(--interrupted); }
svg .rim { fill: var(--rim); }
svg .rung { stroke: var(--soft); stroke-dasharray: 4 3; stroke-width: .8; }
.complete { --c: var(--complete); } .pruned { --c: var(--pruned); } .failed { --c: var(--failed); }
.running { --c: var(--running); } .interrupted { --c: var(--interrupted); }
.waiting { --c: var(--waiting); }
.line.best { stroke: var(--best); stroke-width: 2.6; opacity: 1; }
.point.best .mark { stroke: var(--best); stroke-width: 2; }
.point.on .mark, .point.on .bar { stroke: var(--best); stroke-width: 2; }
.bars { width: min(100%, 640px); } .bars .bar { width: 60%; }
.bar i { display: block; height: .9em; margin-top: .2em; background: var(--complete); }
#said { position: fixed; left: 50%; bottom: 1.2em; transform: translateX(-50%); max-width: 90%;
  background: var(--ink); color: var(--paper); border-radius: .5em; padding: .5em 1em; opacity: 0;
  transition: opacity .2s; pointer-events: none; font-size: .9em; }
#said.shown { opacity: 1; }
"""
)


SCRIPT = r"""
(() => {
const all = (what, where = document) => Array.from(where.querySelectorAll(what));
const said = document.getElementById('said');
const say = text => { said.textContent = text; said.classList.add('shown');
  clearTimeout(say.timer); say.timer = setTimeout(() => said.classList.remove('shown'), 6000); };
// Sorting; missing values stay at the bottom.
const order = (a, b) => a !== '' && b !== '' && !isNaN(a) && !isNaN(b) ? a - b
  : a.localeCompare(b);
all('table.sortable th button').forEach(button => button.addEventListener('click', () => {
  const head = button.parentNode, body = head.closest('table').tBodies[0], n = head.cellIndex;
  const down = head.getAttribute('aria-sort') === 'ascending';
  const value = row => row.cells[n].dataset.v;
  const rows = Array.from(body.rows).sort((p, q) => {
    const a = value(p), b = value(q);
    if (a === '' || b === '') return (a === '') - (b === '');
    return down ? order(b, a) : order(a, b);
  });
  all('th', head.parentNode).forEach(th => th.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  body.append(...rows);
}));
// Highlight a trial in all panels.
const of = {};
all('[data-trial]').forEach(e => (of[e.dataset.trial] = of[e.dataset.trial] || []).push(e));
const light = (event, on) => {
  const e = event.target.closest && event.target.closest('[data-trial]');
  if (e) of[e.dataset.trial].forEach(one => one.classList.toggle('on', on));
};
document.addEventListener('pointerover', event => light(event, true));
document.addEventListener('pointerout', event => light(event, false));
// Links to runs. MLflow shows the page from a blob: address, which names the server, in a sandbox
// that blocks plain clicks. It does not block the browser's own new tab (Ctrl, middle button).
const blob = /^blob:(https?:\/\/[^/]+)/.exec(location.href);
const server = blob ? blob[1] : /^https?:/.test(location.href) ? location.origin : '';
let base = server + '/';
if (server && document.referrer.startsWith(base)) base = document.referrer.split(/[?#]/)[0];
const copy = text => {
  const area = document.createElement('textarea');
  area.value = text; area.readOnly = true; area.style.cssText = 'position:fixed;top:0;opacity:0';
  document.body.append(area); area.focus({preventScroll: true}); area.select();
  let done = false;
  try { done = document.execCommand('copy'); } catch (error) { }
  area.remove();
  return done;
};
if (server) {
  all('.run').forEach(span => {
    const link = document.createElement('a');
    link.textContent = span.textContent;
    link.href = base + span.dataset.at;
    link.addEventListener('click', event => {
      if (self.origin !== 'null' || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      say((copy(link.href) ? 'Its address is copied. ' : link.href + ' ') +
        'Ctrl-click (⌘-click) or the middle button opens it in a new tab.');
    });
    span.replaceChildren(link);
  });
  all('.how').forEach(e => { e.textContent = self.origin === 'null'
    ? 'Ctrl-click (⌘-click) or the middle button opens a run in a new tab. A plain click copies ' +
      'its address, because MLflow blocks links in this pane. The description of the run ' +
      '(Overview) has plain links to the best runs.' : ''; });
}
})();
"""
