'use strict';
(() => {
  const $ = (id) => document.getElementById(id);

  /* Where Meteor's accounts package keeps its session; an installation below a path has a suffix of its own. */
  const suffix = known.base ? `:/:${known.base}` : '';
  const key = (name) => `Meteor.${name}${suffix}`;

  const attempt = (action) => {
    try { return action(); } catch { return null; }
  };

  const forgetSession = () => attempt(() => {
    for (const name of ['loginToken', 'userId', 'loginTokenExpires']) localStorage.removeItem(key(name));
  });

  /* Rocket.Chat's client keeps a copy of the public settings and asks for changes only. It is in IndexedDB, in a database
     that is named by the chat's address, or by the library that made it. */
  const CACHED = 'public-settings';

  const forgetIn = (name) => new Promise((done) => {
    const opening = attempt(() => indexedDB.open(name));
    if (!opening) { done(); return; }
    /* There is none of this name, and none is to be made. */
    opening.onupgradeneeded = () => opening.transaction.abort();
    opening.onerror = (event) => { event.preventDefault(); done(); };
    opening.onsuccess = () => {
      const base = opening.result;
      const stores = [...base.objectStoreNames];
      const finish = () => { base.close(); done(); };
      if (stores.length === 0) { finish(); return; }
      const change = attempt(() => base.transaction(stores, 'readwrite'));
      if (!change) { finish(); return; }
      for (const store of stores) attempt(() => change.objectStore(store).delete(CACHED));
      change.oncomplete = finish;
      change.onabort = finish;
    };
  });

  const forgetSettings = async () => {
    attempt(() => {
      for (const name of Object.keys(localStorage)) if (name.endsWith(`/${CACHED}`)) localStorage.removeItem(name);
    });
    const listed = await attempt(() => indexedDB.databases())?.catch(() => null) ?? null;
    const names = listed ? listed.map(({ name }) => name) : ['localforage', `${location.origin}${known.base}/`, `${location.origin}${known.base}`];
    /* A database that another tab holds shut must not keep anybody waiting. */
    const late = new Promise((done) => { setTimeout(done, 3000); });
    await Promise.race([Promise.all(names.map(forgetIn)), late]);
  };

  const tell = (problem) => {
    $('problem').textContent = problem;
    $('problem').hidden = !problem;
  };

  const post = async (wish) => {
    const response = await fetch(known.path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(wish) });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
  };

  const home = () => location.replace(`${known.base}/home`);

  const enter = async (event) => {
    event.preventDefault();
    const form = event.target;
    tell('');
    form.querySelector('button').disabled = true;
    try {
      await post({ enter: { secret: form.elements.secret?.value ?? '' } });
      forgetSession();
      await forgetSettings();
      home();
    } catch (error) {
      tell(error.message);
      form.querySelector('button').disabled = false;
    }
  };

  /* What is left behind would be good for months. */
  const logOut = async () => {
    const [user, token] = attempt(() => [localStorage.getItem(key('userId')), localStorage.getItem(key('loginToken'))]) ?? [];
    if (!user || !token) return;
    const headers = { 'x-user-id': user, 'x-auth-token': token };
    await fetch(`${known.base}/api/v1/logout`, { method: 'POST', headers, signal: AbortSignal.timeout(5000) }).catch(() => {});
  };

  const leave = async () => {
    tell('');
    $('leave').disabled = true;
    try {
      await logOut();
      await post({ leave: {} });
      forgetSession();
      await forgetSettings();
      home();
    } catch (error) {
      tell(error.message);
      $('leave').disabled = false;
    }
  };

  if (known.todo === 'enter') $('enter').addEventListener('submit', enter);
  if (known.todo === 'leave') $('leave').addEventListener('click', leave);
  if (known.todo === 'over') forgetSettings().finally(() => location.reload());
})();
