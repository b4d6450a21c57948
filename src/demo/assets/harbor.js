// The host app's page: who is signed in, and the list of what Gantry just did.
(() => {
  'use strict';
  const who = document.getElementById('who');
  const list = document.getElementById('events');
  const state = document.getElementById('state');
  const chat = document.getElementById('chat');
  const chatOrigin = new URL(document.body.dataset.chat).origin;
  const PEOPLE = { ada: { name: 'Ada Lovelace', hue: 172 }, grace: { name: 'Grace Hopper', hue: 255 } };

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  // The host session changes first, then the chat is told to let its own go: its client asks Gantry
  // again, and Gantry asks the host app who is here now.
  const change = async (path, body) => {
    await fetch(path, { method: 'POST', body: new URLSearchParams(body), redirect: 'manual' });
    chat.contentWindow.postMessage({ externalCommand: 'logout' }, chatOrigin);
    await show();
  };

  const show = async () => {
    const answer = await fetch('/api/me', { headers: { 'x-harbor-page': '1' } });
    if (!answer.ok) {
      document.body.dataset.user = '';
      state.textContent = 'Framed; sign in to Harbor, and the chat follows';
      who.replaceChildren(...Object.entries(PEOPLE).map(([user, { name }]) =>
        element('button', { type: 'button', id: `sign-in-${user}`, class: 'main', onclick: () => change('/sign-in', { user }) }, `Sign in as ${name}`)));
      return;
    }
    const me = await answer.json();
    const user = me.preferred_username;
    const other = user === 'ada' ? 'grace' : 'ada';
    document.body.dataset.user = user;
    state.textContent = `Framed, and signed in with the Harbor session of ${me.name}`;
    who.replaceChildren(
      element('span', { class: 'face', style: `--hue:${PEOPLE[user]?.hue ?? 20}` }, me.name[0]),
      element('span', {}, 'Signed in as ', element('b', {}, me.name)),
      element('button', { type: 'button', id: 'switch', onclick: () => change('/sign-in', { user: other }) }, `Switch to ${PEOPLE[other].name}`),
      element('button', { type: 'button', id: 'sign-out', onclick: () => change('/sign-out', {}) }, 'Sign out'));
  };

  const KINDS = { session: 'asked Harbor', call: 'called the chat', decision: 'decided' };

  // What Gantry decided, from its audit line.
  const decision = ({ event, outcome, username, created, reused, ended, detail, took_ms: took }) => {
    if (event === 'logout') return [`Ended ${ended === '1' ? 'one chat session' : `${ended ?? 0} chat sessions`}`, []];
    if (outcome === 'no_session') return ['Nobody is signed in to Harbor, so there is no token', []];
    if (outcome !== 'signed_in') return [`Not signed in: ${outcome?.replaceAll('_', ' ')}`, [detail]];
    const account = created === 'true' ? 'account created' : 'account found';
    return [`Signed @${username} in`, [account, reused === 'true' ? 'same token as before' : 'new login token', `${took} ms`]];
  };

  const row = (event) => {
    const at = new Date(event.at);
    const [title, notes] = event.kind === 'decision' ? decision(event.fields) : [event.title, []];
    const text = element('span', { class: 'text' }, title);
    if (notes.length) text.append(element('small', {}, notes.filter(Boolean).join(' · ')));
    const mood = event.fields.outcome === 'no_session' ? ' calm' : event.good ? '' : ' poor';
    return element('li', { class: event.kind + mood, 'data-number': String(event.number) },
      element('time', { datetime: at.toISOString() }, at.toTimeString().slice(0, 8)),
      element('span', { class: 'kind' }, KINDS[event.kind]),
      text);
  };

  let last = 0;
  const poll = async () => {
    try {
      const { events } = await (await fetch(`/demo/events?after=${last}`)).json();
      if (events.length) {
        if (!last) list.replaceChildren();
        last = events.at(-1).number;
        list.prepend(...events.reverse().map(row));
        while (list.children.length > 100) list.lastChild.remove();
      }
    } catch { /* the demo was stopped, or is being started again */ }
    setTimeout(poll, 700);
  };

  show();
  poll();
})();
