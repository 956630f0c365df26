// Sorting, highlighting of a trial in all panels, and links to runs.
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
