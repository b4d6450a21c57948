// Gantry's script in Rocket.Chat's pages. It runs before the chat's own client and keeps the chat session in this
// browser in step with the host app's: whoever is somebody else there, or nobody any more, is not shown the last
// person's messages. It tells the framing page what goes on, and takes a few commands from it.
(function () {
  'use strict';

  const element = document.currentScript;
  if (!element) return;
  const config = element.dataset;
  const origin = window.location.origin;
  const framed = window.parent !== window;
  const version = new URL(element.src).searchParams.get('v') || '';
  const TTL = Math.max(Number(config.ttl) || 0, 5000); // between two looks while this page is seen
  const RECHECK = Number(config.recheck) || 0; // the same while it is not; 0: none
  const PAUSE = 2000; // between two looks, whatever happens
  const PATIENCE = 20000; // for an answer
  const RELOADS = 3; // a minute, unless all was well in between
  const CEILING = 12; // the same, however well it was
  const MINUTE = 60000;
  const VEIL = 3000; // at most, where no answer comes

  // ---- What the client keeps ---------------------------------------------------------------------

  // Meteor's accounts package; an installation below a path has a suffix of its own.
  const suffix = config.base ? ':/:' + config.base : '';
  const TOKEN = 'Meteor.loginToken' + suffix;
  const USER = 'Meteor.userId' + suffix;
  const EXPIRES = 'Meteor.loginTokenExpires' + suffix;

  // Where the browser keeps nothing (blocked, or full), the client has its session in memory: it ends with the page, and
  // whose it is has to be told by the host session alone.
  const inMemory = (function () {
    try {
      window.localStorage.setItem('gantry.probe', '1');
      const kept = window.localStorage.getItem('gantry.probe') === '1';
      window.localStorage.removeItem('gantry.probe');
      return !kept;
    } catch (_) {
      return true;
    }
  })();

  function read(key) {
    try {
      return window.localStorage.getItem(key) || '';
    } catch (_) {
      return ''; // blocked
    }
  }

  function cookie(name) {
    const found = document.cookie.split('; ').find(function (pair) { return pair.indexOf(name + '=') === 0; });
    try {
      return found ? decodeURIComponent(found.slice(name.length + 1)) : '';
    } catch (_) {
      return '';
    }
  }

  const SECURE = window.location.protocol === 'https:' ? '; Secure' : '';

  function dropCookies() {
    document.cookie = 'rc_uid=; path=/; max-age=0' + SECURE;
    document.cookie = 'rc_token=; path=/; max-age=0' + SECURE;
  }

  function forget() {
    try {
      [TOKEN, USER, EXPIRES].forEach(function (key) { window.localStorage.removeItem(key); });
    } catch (_) { /* blocked: then nothing is kept */ }
    dropCookies();
  }

  // Tells a token from others (FNV-1a); the server says by this which one is over.
  function fingerprint(token) {
    let hash = 0x811c9dc5;
    for (let i = 0; i < token.length; i += 1) hash = Math.imul(hash ^ token.charCodeAt(i), 0x01000193);
    return ('0000000' + (hash >>> 0).toString(16)).slice(-8);
  }

  // Known already while the page was made, and so before the client begins.
  if (config.forget) {
    if (fingerprint(read(TOKEN)) === config.forget) forget();
    else if (fingerprint(cookie('rc_token')) === config.forget) dropCookies();
  }

  // The mobile app's web view: there the client must not sign itself in, since the app waits for a message of our
  // loading page. The callback goes by this mark.
  if (!framed) {
    const handlers = window.webkit && window.webkit.messageHandlers;
    if (window.ReactNativeWebView || (handlers && handlers.ReactNativeWebView)) {
      document.cookie = 'gantry_view=app; path=/; SameSite=Lax' + SECURE;
    } else if (cookie('gantry_view')) {
      document.cookie = 'gantry_view=; path=/; max-age=0' + SECURE;
    }
  }

  // ---- The framing page --------------------------------------------------------------------------

  const ancestors = (config.ancestors || '').split(' ').filter(Boolean);

  function matches(pattern, other) {
    if (pattern === '*') return /^https?:\/\//.test(other);
    const wild = /^(https?:\/\/)\*(\.[^:/]+)(:\d+)?$/.exec(pattern);
    if (!wild) return pattern === other;
    const given = /^(https?:\/\/)([^:/]+)(:\d+)?$/.exec(other);
    const plain = function (scheme, port) { return port === (scheme === 'https://' ? ':443' : ':80') ? '' : port || ''; };
    return !!given && given[1] === wild[1] && plain(given[1], given[3]) === plain(wild[1], wild[3])
      && given[2].length > wild[2].length && given[2].slice(-wild[2].length) === wild[2];
  }

  function allowed(other) {
    return other === origin || ancestors.some(function (pattern) { return matches(pattern, other); });
  }

  // The client takes a login token from whoever can reach its window, such as the page that has opened it. Those whom the
  // chat is not for sign nobody in.
  window.addEventListener('message', function (event) {
    const data = event.data;
    const asked = data && (data.event === 'login-with-token' || data.event === 'try-iframe-login');
    if (asked && !allowed(event.origin)) event.stopImmediatePropagation();
  }, true);

  // Who frames us: as the browser says it, or a message of theirs has shown.
  let host = '';
  if (framed) {
    const list = window.location.ancestorOrigins;
    let named = list && list.length ? list[0] : '';
    try {
      if (!named && document.referrer) named = new URL(document.referrer).origin;
    } catch (_) { /* no URL */ }
    if (allowed(named)) host = named;
  }

  // Never to just anybody: the browser drops what is for another origin.
  function tell(event, about) {
    if (!framed) return;
    const message = Object.assign({ gantry: 1, event: event }, about);
    const exact = ancestors.filter(function (pattern) { return pattern.indexOf('*') < 0; });
    (host ? [host] : exact).forEach(function (target) { window.parent.postMessage(message, target); });
  }

  let shown = null; // who is signed in, as was told last: {id, username}
  let unread = -1;

  function signedIn(id, username) {
    if (shown && shown.id === id && shown.username === username) return;
    shown = { id: id, username: username };
    tell('signed-in', shown);
  }

  function signedOut(reason) {
    shown = null;
    tell('signed-out', { reason: reason });
  }

  function counted(value) {
    const count = Math.max(0, parseInt(value, 10) || 0);
    if (count === unread) return;
    unread = count;
    tell('unread', { count: count });
  }

  // ---- Looking -----------------------------------------------------------------------------------

  let bearer = ''; // of a framing page whose session is no cookie
  let timer = 0;
  let looked = 0;
  let looking = false;
  let due = false; // something happened meanwhile

  function plan(wait) {
    clearTimeout(timer);
    timer = setTimeout(look, wait);
  }

  function rest() {
    const period = document.hidden ? RECHECK : TTL;
    clearTimeout(timer);
    // Spread, so that a thousand pages do not ask in step; and never later than said.
    if (period) plan(period * (0.9 + Math.random() / 10));
  }

  // Something may have changed.
  function nudge() {
    if (looking) due = true;
    else plan(Math.max(0, looked + PAUSE - Date.now()));
  }

  function ask(method, path, headers) {
    const abort = window.AbortController ? new AbortController() : null;
    const limit = setTimeout(function () { if (abort) abort.abort(); }, PATIENCE);
    const all = Object.assign({ Accept: 'application/json' }, bearer ? { Authorization: 'Bearer ' + bearer } : {}, headers);
    return fetch(path, {
      method: method,
      headers: all,
      credentials: 'same-origin',
      cache: 'no-store',
      redirect: 'manual', // a sign-in gate's page is no answer
      signal: abort ? abort.signal : undefined,
    }).then(function (response) {
      return response.json().then(function (body) {
        clearTimeout(limit);
        return { status: response.status, body: body && typeof body === 'object' ? body : {} };
      });
    });
  }

  function look() {
    const token = read(TOKEN);
    clearTimeout(timer);
    if (looking) return;
    if (!token && !inMemory) {
      unveil();
      rest();
      return;
    }
    looking = true;
    looked = Date.now();
    ask('GET', config.prefix + 'session', inMemory ? { 'X-Gantry-In-Memory': '1' } : { 'X-User-Id': read(USER), 'X-Auth-Token': token }).then(function (answer) {
      if (inMemory) follow(answer);
      else heard(token, answer);
    }).catch(function () { /* nothing is known: nothing is done */ }).then(function () {
      looking = false;
      if (!leaving) unveil();
      if (due) {
        due = false;
        nudge();
      } else {
        rest();
      }
    });
  }

  function heard(token, answer) {
    const told = answer.status === 200 || answer.status === 401 || answer.status === 403;
    const chat = told ? answer.body.chat : '';
    if (token !== read(TOKEN)) return; // it was about another one
    if (chat === 'other' || chat === 'ended') leave(chat === 'other' ? 'switched' : 'ended');
    else if (chat === 'same' && answer.status === 200 && !changing) {
      if (recent('gantry.reloads').length) keep('gantry.reloads', []);
      signedIn(String(answer.body.id || ''), String(answer.body.username || ''));
    }
  }

  // Whose the host session was when it was looked at last. Our cookie may not be kept either.
  let follows = '';
  function follow(answer) {
    const id = answer.status === 200 ? String(answer.body.id || '') : '';
    if (!id && answer.status !== 401 && answer.status !== 403) return;
    const former = follows;
    follows = id;
    if (answer.body.chat === 'other' || (former && id && former !== id)) leave('switched');
    else if (former && (!id || answer.body.chat === 'ended')) leave('ended');
    else if (answer.body.chat === 'same') signedIn(id, String(answer.body.username || ''));
  }

  // A page that comes back from the browser's cache shows nothing before it is known whose it is.
  let veiled = 0;
  function veil() {
    document.documentElement.style.visibility = 'hidden';
    clearTimeout(veiled);
    veiled = setTimeout(unveil, VEIL);
  }

  function unveil() {
    if (!veiled) return;
    clearTimeout(veiled);
    veiled = 0;
    document.documentElement.style.visibility = '';
  }

  // ---- Leaving -----------------------------------------------------------------------------------

  let channel = null;
  try {
    channel = new BroadcastChannel('gantry');
    channel.onmessage = nudge;
  } catch (_) { /* not there, or blocked */ }

  // Nothing of the last person stays: neither what is kept, nor what is shown.
  function leave(reason) {
    forget();
    kept = '';
    signedOut(reason);
    if (channel) channel.postMessage('session');
    reload();
  }

  // Times of the last minute, over loads of this page.
  function recent(key) {
    let times = [];
    try {
      times = JSON.parse(sessionStorage.getItem(key)) || [];
    } catch (_) { /* blocked, or not ours */ }
    const now = Date.now();
    return Array.isArray(times) ? times.filter(function (time) { return time <= now && now - time < MINUTE; }) : [];
  }

  function keep(key, times) {
    try {
      sessionStorage.setItem(key, JSON.stringify(times));
    } catch (_) { /* blocked */ }
  }

  let leaving = false;
  function reload() {
    if (leaving) return;
    leaving = true;
    const now = Date.now();
    const rounds = recent('gantry.reloads');
    const all = recent('gantry.all-reloads');
    if (rounds.length < RELOADS && all.length < CEILING) {
      keep('gantry.reloads', rounds.concat(now));
      keep('gantry.all-reloads', all.concat(now));
      window.location.reload();
      return;
    }
    // Something sends us in circles: once more when the minute is over, and nothing is shown until then.
    unveil();
    if (document.body) document.body.textContent = 'The chat was signed out several times within a minute. It is loaded again in a while.';
    tell('error', { code: 'repeated', message: 'The chat was signed out several times within a minute.' });
    const oldest = Math.min(rounds.length < RELOADS ? now : rounds[0], all.length < CEILING ? now : all[0]);
    setTimeout(function () {
      leaving = false;
      reload();
    }, oldest + MINUTE - now + 100);
  }

  // ---- What the client does in this page, and in others ------------------------------------------

  let kept = read(TOKEN);
  let person = read(USER);

  // No event tells what the own page has stored.
  setInterval(function () {
    const token = read(TOKEN);
    if (token === kept) return;
    kept = token;
    person = read(USER);
    if (token) nudge();
    else signedOut('logout');
  }, 1000);

  let changing = 0; // another page may have signed somebody else in: what is stored is not what this one shows
  window.addEventListener('storage', function (event) {
    if (event.key !== null && event.key !== TOKEN && event.key !== USER) return;
    // Somebody who had been here for less than a second is not known otherwise.
    const was = person || (event.key === USER && event.oldValue) || '';
    nudge();
    // The keys are written one after the other. The client looks at them every few seconds; meanwhile it goes on as
    // whom it knows.
    if (!was) return;
    changing += 1;
    setTimeout(function () {
      changing -= 1;
      if (read(USER) === was && read(TOKEN)) {
        nudge();
        return;
      }
      kept = read(TOKEN);
      signedOut(kept ? 'switched' : 'logout');
      reload();
    }, 500);
  });

  window.addEventListener('pageshow', function (event) {
    if (!event.persisted || !(read(TOKEN) || inMemory)) return;
    veil();
    looked = 0; // at once
  });
  ['focus', 'pageshow', 'online'].forEach(function (name) { window.addEventListener(name, nudge); });
  document.addEventListener('visibilitychange', function () {
    if (document.hidden) rest();
    else nudge();
  });

  // ---- Commands of the framing page, errors of our loading page ----------------------------------

  function open(path) {
    let url;
    try {
      url = new URL(path, origin);
    } catch (_) {
      return;
    }
    if (url.origin !== origin || url.pathname.indexOf(config.prefix) === 0) return;
    const layout = new URLSearchParams(window.location.search).get('layout');
    if (layout && !url.searchParams.has('layout')) url.searchParams.set('layout', layout);
    const target = url.pathname + url.search;
    if (target === window.location.pathname + window.location.search) return;
    // The client's own router, where the workspace lets it listen to its own origin.
    window.postMessage({ externalCommand: 'go', path: target }, origin);
    setTimeout(function () {
      if (window.location.pathname !== url.pathname) window.location.assign(url.href);
    }, 500);
  }

  function logout() {
    const token = read(TOKEN);
    if (inMemory) {
      window.postMessage({ externalCommand: 'logout' }, origin);
      const over = function () {
        ask('POST', config.prefix + 'logout').catch(function () { /* the page forgets all the same */ }).then(function () { leave('logout'); });
      };
      setTimeout(over, 1000); // the client has logged out by now, if it listens to us
      return;
    }
    if (!token) {
      signedOut('logout');
      return;
    }
    const user = read(USER);
    window.postMessage({ externalCommand: 'logout' }, origin);
    const began = Date.now();
    const wait = setInterval(function () {
      if (read(TOKEN) !== token) {
        clearInterval(wait);
        kept = read(TOKEN);
        signedOut('logout');
        return;
      }
      if (Date.now() - began < 1000) return;
      clearInterval(wait);
      // The client does not listen to us. Over REST it is a logout of the person's own all the same; where that fails,
      // Gantry ends the session.
      const done = function () {
        if (read(TOKEN) === token) leave('logout');
      };
      const refused = function () {
        ask('POST', config.prefix + 'logout').then(function (answer) {
          if (answer.status === 200) done();
          else tell('error', problem(answer));
        }, function () { tell('error', { code: 'unreachable', message: 'The chat server cannot be reached.' }); });
      };
      ask('POST', (config.base || '') + '/api/v1/logout', { 'X-User-Id': user, 'X-Auth-Token': token, 'Content-Type': 'application/json' })
        .then(function (answer) {
          if (answer.status === 200) done();
          else refused();
        }, refused);
    }, 100);
  }

  function problem(answer) {
    const body = answer.body;
    return { code: String(body.error || 'unexpected'), message: String(body.message || ''), id: String(body.id || '') };
  }

  // Without a token it is the browser's own session. Who has logged out of the chat comes back by
  // asking to.
  function signInBy(token, again) {
    const renewed = inMemory && bearer && !again;
    bearer = token;
    if (renewed) {
      nudge(); // somebody else's page is loaded anew, and is handed the token then
      return;
    }
    ask('POST', config.token, Object.assign({ 'X-Gantry-Page': '1' }, again ? { 'X-Gantry-Sign-In': '1' } : {})).then(function (answer) {
      const fresh = answer.body.loginToken;
      if (bearer !== token) return;
      if (answer.status !== 200 || typeof fresh !== 'string' || !fresh) {
        tell('error', problem(answer));
        return;
      }
      const before = inMemory ? '' : read(TOKEN);
      if (before === fresh) {
        shown = null; // to be told once more
        nudge();
      } else if (before) {
        take(fresh); // somebody else's page is not gone on with
      } else {
        window.postMessage({ event: 'login-with-token', loginToken: fresh }, origin);
        setTimeout(function () {
          if (!inMemory && !read(TOKEN) && bearer === token) take(fresh);
        }, 4000);
      }
    }).catch(function () {
      tell('error', { code: 'unreachable', message: 'The chat server cannot be reached.' });
    });
  }

  // Has the client find a session when it begins.
  function take(token) {
    forget();
    try {
      window.localStorage.setItem(TOKEN, token);
      window.localStorage.setItem(EXPIRES, String(new Date(Date.now() + 24 * 60 * MINUTE)));
    } catch (_) {
      tell('error', { code: 'storage_blocked', message: 'This browser keeps nothing for the chat.' });
      return;
    }
    reload();
  }

  const COMMANDS = {
    hello: function () {
      tell('ready', { version: version });
      if (shown) tell('signed-in', shown);
      if (unread > 0) tell('unread', { count: unread });
    },
    open: function (data) { if (typeof data.path === 'string') open(data.path); },
    logout: logout,
    bearer: function (data) { if (typeof data.token === 'string' && /^[\x21-\x7e]+$/.test(data.token)) signInBy(data.token, data.again === true); },
    'sign-in': function () { signInBy(bearer, true); },
    check: nudge,
  };

  window.addEventListener('message', function (event) {
    const data = event.data;
    if (typeof data !== 'object' || data === null || data.gantry !== 1) return;
    if (framed && event.source === window.parent && allowed(event.origin)) {
      host = event.origin;
      if (Object.prototype.hasOwnProperty.call(COMMANDS, data.command)) COMMANDS[data.command](data);
    } else if (event.origin === origin && event.source && event.source !== window && event.source.parent === window) {
      const text = function (value) { return typeof value === 'string' ? value.slice(0, 300) : ''; };
      if (data.event === 'error') tell('error', { code: text(data.code), message: text(data.message), id: text(data.id) });
    }
  });

  // ---- What the client has to tell ---------------------------------------------------------------

  let byEvent = false;
  window.addEventListener('unread-changed', function (event) {
    byEvent = true;
    counted(event.detail);
  });
  window.addEventListener('room-opened', function (event) {
    const room = event.detail || {};
    tell('room', { path: window.location.pathname, name: String(room.name || ''), id: String(room._id || '') });
  });
  // Versions that fire no event count in the title.
  if (framed) {
    new MutationObserver(function () {
      const count = /^\((\d+)\+?\)/.exec(document.title);
      if (!byEvent && (count || unread > 0)) counted(count ? count[1] : 0);
    }).observe(document.head, { childList: true, subtree: true, characterData: true });
  }

  tell('ready', { version: version });
  look();
})();
