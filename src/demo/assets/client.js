// The stand-in's web client: what the generations A to D of Rocket.Chat's client do about iframe login,
// and a small chat to be signed in to. See rocketchat-contract.md, sections 1 and 2.
(() => {
  'use strict';
  const { generation } = __meteor_runtime_config__.standIn;
  const app = document.getElementById('app');
  const KEYS = { token: 'Meteor.loginToken', user: 'Meteor.userId', expires: 'Meteor.loginTokenExpires' };
  const ROOMS = ['general', 'berth-planning', 'crane-crew', 'weather'];
  let settings = {};
  let me = null; // {id, username, name}
  let room = ROOMS[0];

  // --- DDP -------------------------------------------------------------------------------------------

  class Ddp {
    constructor() { this.waiting = new Map(); this.next = 1; this.delay = 300; this.users = {}; this.unready(); this.open(); }

    unready() { this.ready = new Promise((resolve) => { this.isReady = resolve; }); }

    open() {
      const socket = new WebSocket(location.origin.replace(/^http/, 'ws') + '/websocket');
      this.socket = socket;
      socket.onopen = () => this.send({ msg: 'connect', version: '1', support: ['1', 'pre2', 'pre1'] });
      socket.onmessage = (event) => this.message(JSON.parse(event.data));
      socket.onclose = () => {
        this.unready();
        // As Meteor does it, a login is sent again on the next connection.
        for (const [id, { reject, message }] of this.waiting) {
          if (message.method === 'login') continue;
          this.waiting.delete(id);
          reject(new Error('connection lost'));
        }
        setTimeout(() => this.open(), this.delay);
        this.delay = Math.min(this.delay * 2, 5000);
      };
    }

    // What a closing socket would lose is dealt with once it has closed.
    send(message) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }

    message(message) {
      if (message.msg === 'connected') {
        this.delay = 300;
        for (const call of this.waiting.values()) this.send(call.message);
        this.isReady();
        onConnected();
      }
      else if (message.msg === 'ping') this.send({ msg: 'pong', id: message.id });
      else if (message.msg === 'added' && message.collection === 'users') this.users[message.id] = message.fields;
      else if (message.msg === 'changed' && message.collection === 'stream-room-messages') onMessage(message.fields.args[0]);
      else if (message.msg === 'changed' && message.fields.eventName === 'public-settings-changed') onSetting(message.fields.args[1]);
      else if (message.msg === 'result') {
        const call = this.waiting.get(message.id);
        this.waiting.delete(message.id);
        if (!call) return;
        if (message.error) call.reject(Object.assign(new Error(message.error.message), { code: message.error.error }));
        else call.resolve(message.result);
      }
    }

    async call(method, ...params) {
      await this.ready;
      const id = String(this.next++);
      return new Promise((resolve, reject) => {
        const message = { msg: 'method', method, id, params };
        this.waiting.set(id, { resolve, reject, message });
        this.send(message);
      });
    }
  }

  // --- Settings --------------------------------------------------------------------------------------

  // As CachedStore.ts does it: a copy in IndexedDB, and only what has changed since it was made. From 5.x on the method is
  // called over REST; generation A asks the socket.
  const COPY = 'public-settings';

  const copies = (mode, action) => new Promise((done, failed) => {
    const opening = indexedDB.open(`${location.origin}/`);
    opening.onupgradeneeded = () => opening.result.createObjectStore('keyvaluepairs');
    opening.onerror = () => failed(opening.error);
    opening.onsuccess = () => {
      const change = opening.result.transaction('keyvaluepairs', mode);
      const request = action(change.objectStore('keyvaluepairs'));
      change.oncomplete = () => { opening.result.close(); done(request.result); };
      change.onabort = () => { opening.result.close(); failed(change.error); };
    };
  });

  const overRest = async (...params) => {
    const message = JSON.stringify({ msg: 'method', id: '1', method: 'public-settings/get', params });
    const answer = await fetch('/api/v1/method.callAnon/public-settings%3Aget', {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ message }),
    });
    return JSON.parse((await answer.json()).message).result;
  };

  const askSettings = (...params) => {
    const bySocket = () => ddp.call('public-settings/get', ...params);
    return generation === 'A' ? bySocket() : overRest(...params).catch(bySocket);
  };

  const readSettings = async () => {
    const began = Date.now();
    const copy = await copies('readonly', (store) => store.get(COPY)).catch(() => null);
    const answer = copy ? await askSettings({ $date: copy.updatedAt }) : await askSettings();
    const known = { ...copy?.records };
    for (const { _id, value } of Array.isArray(answer) ? answer : answer.update) known[_id] = value;
    // Where the browser keeps nothing, all is asked for each time.
    await copies('readwrite', (store) => store.put({ updatedAt: began, records: known }, COPY)).catch(() => {});
    return known;
  };

  const onSetting = ({ _id, value }) => {
    const before = iframeEnabled();
    settings[_id] = value;
    if (me || !started || before === iframeEnabled()) return;
    if (before) showStock();
    else { loginState = 'waiting'; onMount(); render(); }
  };

  // --- Sessions --------------------------------------------------------------------------------------

  // As Meteor's localstorage package does it: in memory, where the browser keeps nothing.
  const storage = (() => {
    try {
      localStorage.setItem('Meteor.probe', '1');
      const kept = localStorage.getItem('Meteor.probe') === '1';
      localStorage.removeItem('Meteor.probe');
      if (kept) return localStorage;
    } catch { /* blocked, or full */ }
    const memory = new Map();
    return {
      getItem: (key) => memory.get(key) ?? null,
      setItem: (key, value) => { memory.set(key, String(value)); },
      removeItem: (key) => { memory.delete(key); },
    };
  })();

  const stored = () => storage.getItem(KEYS.token);

  const setCookies = (id, token) => {
    const secure = location.protocol === 'https:' ? '; secure' : '';
    document.cookie = `rc_uid=${encodeURIComponent(id)}; path=/; SameSite=Lax${secure}`;
    document.cookie = `rc_token=${encodeURIComponent(token)}; path=/; SameSite=Lax${secure}`;
  };

  const unstore = () => {
    for (const key of Object.values(KEYS)) storage.removeItem(key);
    document.cookie = 'rc_uid=; path=/; max-age=0';
    document.cookie = 'rc_token=; path=/; max-age=0';
    me = null;
  };

  // Wraps Accounts._unstoreLoginToken: tryLogin first, then the stored token is removed.
  const endSession = () => {
    if (iframeEnabled()) { loginState = 'waiting'; runTryLogin(); }
    unstore();
    render();
  };

  const ddpLogin = async (params) => {
    const result = await ddp.call('login', params);
    storage.setItem(KEYS.token, result.token);
    storage.setItem(KEYS.user, result.id);
    storage.setItem(KEYS.expires, new Date(result.tokenExpires.$date).toString());
    setCookies(result.id, result.token);
    const changed = !me || me.id !== result.id;
    me = { id: result.id, ...ddp.users[result.id] };
    for (const rid of ROOMS) ddp.send({ msg: 'sub', id: `room-${rid}`, name: 'stream-room-messages', params: [rid, false] });
    if (changed) render();
    return result;
  };

  const logout = async () => {
    if (me) await ddp.call('logout').catch(() => {});
    endSession();
  };

  // --- Iframe login ----------------------------------------------------------------------------------

  // What the login page shows: waiting (blank), iframe or stock form.
  let loginState = 'waiting';

  const iframeEnabled = () => Boolean(settings.Accounts_iframe_enabled && settings.Accounts_iframe_url
    && settings.Accounts_Iframe_api_url && settings.Accounts_Iframe_api_method);

  const showIframe = () => { loginState = 'iframe'; if (!me) render(); };
  const showStock = () => { loginState = 'stock'; if (!me) render(); };

  const byResume = (token) => ddpLogin({ resume: token });
  const byIframeToken = (token) => ddpLogin({ iframe: true, token });

  // Generation A: Meteor's HTTP.call. The status is not looked at.
  const tryLoginA = (reply) => new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open(settings.Accounts_Iframe_api_method, settings.Accounts_Iframe_api_url);
    request.withCredentials = true;
    const failed = (error) => { showIframe(); reply?.(error); done(); };
    request.onerror = () => failed(new Error(''));
    request.onload = () => {
      let data = null;
      if (/json/.test(request.getResponseHeader('Content-Type') ?? '')) {
        try { data = JSON.parse(request.responseText); } catch { data = null; }
      }
      if (!data || !(data.token || data.loginToken)) { failed(new Error('')); return; }
      (data.loginToken ? byResume(data.loginToken) : byIframeToken(data.token)).then(done, failed);
    };
    request.send();
  });

  // Generations B to D: fetch, and nothing but status 200 counts.
  const tryLoginFetch = async (reply) => {
    const failed = (error) => { showIframe(); reply?.(error); };
    const options = { method: settings.Accounts_Iframe_api_method, credentials: 'include' };
    if (generation !== 'D') options.headers = { 'Content-Type': 'application/json' };
    let result;
    try {
      result = await fetch(settings.Accounts_Iframe_api_url, options);
    } catch (error) {
      if (generation === 'D') { failed(new Error('')); return; }
      showStock(); // B and C: nobody handles the rejection.
      throw error;
    }
    if (!result.ok || result.status !== 200) { failed(new Error('')); return; }
    let body;
    try {
      body = await result.json();
    } catch (error) {
      if (generation === 'D') { failed(new Error('')); return; }
      showStock();
      throw error;
    }
    const token = typeof body === 'string' ? body : body?.token;
    const loginToken = typeof body === 'object' ? body?.loginToken : undefined;
    if (generation === 'B') {
      // The answer's body is read a second time before a reply is sent, which throws: the reply never arrives.
      await (loginToken ? byResume(loginToken) : byIframeToken(token)).catch(showIframe);
      return;
    }
    // C and D run both; with neither field nothing at all happens.
    const logins = [];
    if (loginToken) logins.push(byResume(loginToken).catch((error) => (generation === 'C' ? showStock() : failed(error))));
    if (token) logins.push(byIframeToken(token).catch(generation === 'C' ? showIframe : failed));
    await Promise.all(logins);
  };

  const tryLogin = (reply) => (generation === 'A' ? tryLoginA(reply) : tryLoginFetch(reply));
  // As the real client's callers do, the promise is left alone: B and C report an unhandled rejection.
  const runTryLogin = (reply) => { tryLogin(reply); };

  const onMount = () => {
    if (!iframeEnabled()) { showStock(); return; }
    runTryLogin(); // the hook
    if (generation !== 'A') runTryLogin(); // and the listener
  };

  const iframeSource = () => {
    const url = settings.Accounts_iframe_url;
    if (!/Electron/.test(navigator.userAgent)) return url;
    return url + (url.includes('?') ? '&' : '?') + 'client=electron';
  };

  // --- Messages --------------------------------------------------------------------------------------

  const onLoginMessage = (event) => {
    const data = event.data;
    const reply = (error) => event.source?.postMessage({ event: 'login-error', response: error.message }, event.origin);
    if (data.event === 'try-iframe-login') runTryLogin(reply);
    if (data.event === 'login-with-token') {
      // Generation C: errors of loginToken give no reply.
      if (data.loginToken) byResume(data.loginToken).catch((error) => { if (generation !== 'C') reply(error); });
      else byIframeToken(data.token).catch(reply);
    }
  };

  const onCommand = (event) => {
    if (!settings.Iframe_Integration_receive_enable) return;
    const allowed = settings.Iframe_Integration_receive_origin;
    if (allowed !== '*' && !allowed.split(',').includes(event.origin)) {
      console.error('Origin not allowed', event.origin);
      return;
    }
    switch (event.data.externalCommand) {
      case 'logout': logout().then(() => go('/home')); break;
      case 'login-with-token': byResume(event.data.token).catch(() => {}); break;
      case 'go': go(event.data.path); break;
      default:
    }
  };

  window.addEventListener('message', (event) => {
    if (typeof event.data !== 'object' || event.data === null) return;
    if (event.data.externalCommand) onCommand(event);
    else if (event.data.event && iframeEnabled()) onLoginMessage(event);
  });

  const fireEvent = (eventName, data) => {
    window.dispatchEvent(new CustomEvent(eventName, { detail: data }));
    if (settings.Iframe_Integration_send_enable && parent !== window) {
      parent.postMessage({ eventName, data }, settings.Iframe_Integration_send_target_origin);
    }
  };

  // --- The page --------------------------------------------------------------------------------------

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  const go = (path) => {
    const url = new URL(path, location.origin);
    for (const [name, value] of new URLSearchParams(location.search)) if (!url.searchParams.has(name)) url.searchParams.set(name, value);
    history.pushState(null, '', url.pathname + url.search);
    const match = url.pathname.match(/^\/(?:channel|group)\/([^/]+)/);
    if (match) { room = decodeURIComponent(match[1]); if (me) render(); }
  };

  const messageItem = (message) => {
    const at = new Date(message.ts.$date);
    const body = element('p', {}, message.msg.replace(/\*(.+?)\*/g, '$1'));
    for (const file of message.attachments ?? []) body.append(element('img', { class: 'file', src: file.image_url, alt: file.title }));
    return element('li', { 'data-id': message._id },
      element('img', { class: 'face', alt: '', src: `/avatar/${encodeURIComponent(message.u.username)}` }),
      element('div', {}, element('b', {}, message.u.name ?? message.u.username),
        element('time', { datetime: at.toISOString() }, at.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }))),
      body);
  };

  const unread = new Map();
  const countUnread = () => {
    const count = [...unread.values()].reduce((sum, some) => sum + some, 0);
    document.title = `${count ? `(${count}) ` : ''}Rocket.Chat (stand-in)`;
    fireEvent('unread-changed', count);
  };

  const onMessage = (message) => {
    const list = document.querySelector('.messages');
    fireEvent('new-message', message);
    if (message.rid !== room) {
      unread.set(message.rid, (unread.get(message.rid) ?? 0) + 1);
      countUnread();
    }
    if (!list || message.rid !== room || list.querySelector(`[data-id="${message._id}"]`)) return;
    list.append(messageItem(message));
    list.scrollTop = list.scrollHeight;
  };

  const chat = () => {
    const open = (rid) => { go(`/channel/${rid}`); };
    const list = element('ol', { class: 'messages', 'aria-live': 'polite' });
    const shown = room;
    ddp.call('loadHistory', shown).then(({ messages }) => {
      list.replaceChildren(...messages.map(messageItem));
      for (const image of list.querySelectorAll('img.file')) image.onload = () => { list.scrollTop = list.scrollHeight; };
      list.scrollTop = list.scrollHeight;
    }, () => {});
    const input = element('input', { 'aria-label': 'Message', placeholder: `Message #${room}`, autocomplete: 'off' });
    const send = (event) => {
      event.preventDefault();
      const text = input.value.trim();
      input.value = '';
      if (text) ddp.call('sendMessage', { rid: shown, msg: text }).then(onMessage, () => {});
    };
    fireEvent('room-opened', { _id: room, name: room, t: 'c' });
    if (unread.delete(room)) countUnread();
    return element('div', { class: 'chat' },
      element('aside', { class: 'side' },
        element('header', {}, settings.Site_Name ?? 'Chat'),
        element('nav', {}, element('h2', {}, 'Channels'),
          ...ROOMS.map((rid) => element('button', { type: 'button', 'aria-current': String(rid === room), onclick: () => open(rid) }, rid))),
        element('div', { class: 'me' },
          element('img', { alt: '', src: `/avatar/${encodeURIComponent(me.username)}` }),
          element('span', { id: 'signed-in' }, 'Signed in as ', element('b', {}, `@${me.username}`),
            element('button', { type: 'button', id: 'logout', onclick: logout }, 'Log out')))),
      element('main', { class: 'room' },
        element('header', {}, `# ${room}`, element('small', {}, `stand-in for Rocket.Chat ${__meteor_runtime_config__.standIn.version}`)),
        list,
        element('form', { class: 'composer', onsubmit: send }, input, element('button', {}, 'Send'))));
  };

  const stockForm = () => {
    const error = element('p', { role: 'alert' });
    const name = element('input', { name: 'user', 'aria-label': 'Email or username', placeholder: 'Email or username' });
    const password = element('input', { name: 'password', type: 'password', 'aria-label': 'Password', placeholder: 'Password' });
    const code = element('input', { name: 'code', hidden: '', 'aria-label': 'Code', placeholder: 'Code', autocomplete: 'one-time-code' });
    const submit = async (event) => {
      event.preventDefault();
      const bytes = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(password.value)));
      const digest = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
      const user = name.value.includes('@') ? { email: name.value } : { username: name.value };
      const login = { user, password: { digest, algorithm: 'sha-256' } };
      ddpLogin(code.hidden ? login : { totp: { login, code: code.value } }).catch((failure) => {
        if (failure.code === 'totp-required') code.hidden = false;
        error.textContent = failure.message;
      });
    };
    return element('form', { class: 'stock', onsubmit: submit }, element('h1', {}, settings.Site_Name ?? 'Chat'), name, password, code,
      element('button', {}, 'Login'), error);
  };

  const render = () => {
    document.documentElement.classList.toggle('embedded', new URLSearchParams(location.search).get('layout') === 'embedded');
    app.dataset.state = me ? 'signed-in' : loginState;
    app.dataset.user = me?.username ?? '';
    if (me) { app.replaceChildren(chat()); return; }
    if (loginState === 'iframe' && iframeEnabled()) {
      if (app.querySelector('iframe.login')) return; // it stays
      app.replaceChildren(element('iframe', { class: 'login', title: 'Login', src: iframeSource() }));
      return;
    }
    if (loginState === 'stock') app.replaceChildren(stockForm());
    else app.replaceChildren(element('p', { class: 'quiet' }, 'Loading…'));
  };

  // --- Start, and again after every lost connection --------------------------------------------------

  let started = false;

  const byQuery = async () => {
    const url = new URL(location.href);
    const token = url.searchParams.get('resumeToken');
    if (!token) return false;
    url.searchParams.delete('resumeToken');
    url.searchParams.delete('userId');
    history.replaceState(null, '', url.pathname + url.search);
    await byResume(token);
    return true;
  };

  const onConnected = async () => {
    try {
      settings = await readSettings();
      ddp.send({ msg: 'sub', id: 'settings', name: 'stream-notify-all', params: ['public-settings-changed', false] });
    } catch { return; } // the connection broke again
    const first = !started;
    started = true;
    if (first && 'AB'.includes(generation)) fireEvent('startup', true);
    try {
      if (first && await byQuery()) return;
      if (stored()) { await byResume(stored()); return; }
    } catch (error) {
      if (error.message === 'connection lost') return;
      loginState = iframeEnabled() ? 'waiting' : 'stock';
      endSession();
      return;
    }
    if (first) { onMount(); if (!me) render(); }
  };

  // Meteor's accounts package looks every three seconds whether another tab has changed what is stored.
  let polled = stored();
  setInterval(() => {
    const token = stored();
    if (token === polled || !started) return;
    polled = token;
    if (token) byResume(token).catch(endSession);
    else if (me) logout();
  }, 3000);

  const match = location.pathname.match(/^\/(?:channel|group)\/([^/]+)/);
  if (match) room = decodeURIComponent(match[1]);
  const ddp = new Ddp();
})();
