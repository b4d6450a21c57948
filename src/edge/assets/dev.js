'use strict';
(() => {
  const { prefix, base, chosen } = document.body.dataset;
  const $ = (id) => document.getElementById(id);
  let all = [];

  /* Where Meteor's accounts package keeps its session; an installation below a path has a suffix of its own. */
  const suffix = base ? `:/:${base}` : '';
  const KEYS = { token: `Meteor.loginToken${suffix}`, user: `Meteor.userId${suffix}`, expires: `Meteor.loginTokenExpires${suffix}` };

  const show = (id, text) => {
    $(id).textContent = text;
    $(id).hidden = !text;
  };

  const post = async (what, body) => {
    const response = await fetch(`${prefix}/${what}`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    return answer;
  };

  const forget = () => {
    for (const key of Object.values(KEYS)) localStorage.removeItem(key);
    for (const name of ['rc_uid', 'rc_token']) document.cookie = `${name}=; path=/; max-age=0`;
  };

  /* Only a path of this origin is gone to. */
  const target = () => {
    const home = `${base}/`;
    const wanted = new URLSearchParams(location.search).get('return');
    if (!wanted) return home;
    try {
      const url = new URL(wanted, location.origin);
      return url.origin === location.origin && !url.pathname.startsWith(prefix) ? url.href : home;
    } catch {
      return home;
    }
  };

  const become = async (username) => {
    show('problem', '');
    try {
      const answer = await post('become', { username });
      forget();
      localStorage.setItem(KEYS.token, answer.loginToken);
      localStorage.setItem(KEYS.user, answer.userId);
      /* The client learns the real end when it logs in. */
      localStorage.setItem(KEYS.expires, String(new Date(Date.now() + 24 * 3600 * 1000)));
      location.assign(target());
    } catch (error) {
      show('problem', `${username}: ${error.message}`);
    }
  };

  const draw = () => {
    const wanted = $('name').value.trim().toLowerCase();
    const fits = (user) => [user.username, user.name].some((text) => text?.toLowerCase().includes(wanted));
    const items = all.filter(fits).map((user) => {
      const item = document.createElement('li');
      const button = document.createElement('button');
      const name = document.createElement('strong');
      const rest = document.createElement('small');
      button.type = 'button';
      button.dataset.user = user.username;
      button.disabled = Boolean(user.why_not);
      button.setAttribute('aria-current', String(user.username === chosen));
      name.textContent = `@${user.username}`;
      rest.textContent = [user.name, user.roles.join(', '), user.why_not].filter(Boolean).join(' · ');
      button.append(name, rest);
      button.addEventListener('click', () => become(user.username));
      item.append(button);
      return item;
    });
    $('users').replaceChildren(...items);
  };

  const load = async () => {
    try {
      const response = await fetch(`${prefix}/users`);
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.message);
      all = answer.users;
      show('more', answer.total > all.length ? `The first ${all.length} of ${answer.total} users are listed. Any other: type the whole username.` : '');
      draw();
    } catch (error) {
      show('problem', `The users cannot be listed: ${error.message}. A username that you type works all the same.`);
    }
  };

  $('other').addEventListener('submit', (event) => {
    event.preventDefault();
    const name = $('name').value.trim();
    if (name) become(name);
  });
  $('name').addEventListener('input', draw);
  $('sign-out').addEventListener('click', async () => {
    try {
      await post('sign-out', {});
    } catch (error) {
      show('problem', error.message);
      return;
    }
    forget();
    location.reload();
  });
  if (chosen) {
    $('who').textContent = `@${chosen}`;
    $('now').hidden = false;
    $('open').addEventListener('click', (event) => {
      /* Without the workspace's iframe settings, too. */
      event.preventDefault();
      become(chosen);
    });
  }
  load();
  if (chosen && new URLSearchParams(location.search).has('become')) become(chosen);
})();
