(() => {
  const every = 5000;
  const shift = (from, to) => {
    for (const fresh of to.querySelectorAll('[id]')) {
      const old = from.getElementById(fresh.id);
      if (!old || fresh.tagName !== old.tagName || old.innerHTML === fresh.innerHTML) continue;
      const places = [...old.querySelectorAll('.scroll')].map((box) => [box.scrollLeft, box.scrollTop]);
      old.replaceChildren(...document.adoptNode(fresh).childNodes);
      old.querySelectorAll('.scroll').forEach((box, at) => places[at] && box.scrollTo(...places[at]));
    }
    document.title = to.title;
  };
  const look = async () => {
    try {
      if (document.hidden || !document.getSelection().isCollapsed) return;
      const answer = await fetch('/', { headers: { accept: 'text/html' }, cache: 'no-store', signal: AbortSignal.timeout(4000) });
      if (!answer.ok) throw new Error(answer.status);
      shift(document, new DOMParser().parseFromString(await answer.text(), 'text/html'));
      document.body.classList.remove('stale');
    } catch {
      document.body.classList.add('stale');
    } finally {
      setTimeout(look, every);
    }
  };
  setTimeout(look, every);
})();
