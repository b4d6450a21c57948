// What the loading page does. Rocket.Chat's login page frames it ("chat"), Rocket.Chat's mobile app
// opens it in a web view ("app"), or a person opens it in a tab ("tab"). It waits until the host
// app's session is there, has the client sign in, and says in words why that does not happen.
(function () {
  'use strict';

  const config = JSON.parse(document.getElementById('gantry-config').textContent);
  const origin = window.location.origin;
  const app = config.app_name;
  const electron = config.electron || /\bElectron\//.test(navigator.userAgent);

  const LONGEST_WAIT = 30000; // between two looks at the session
  const REPLY_WAIT = 6000; // for a login-error, or for this frame to go away
  const ROUNDS = 2; // sign-ins begun by this page itself, a minute
  const CEILING = 8; // the same, however often the session came and went
  const MINUTE = 60000;

  // ---- Where are we? -----------------------------------------------------------------------------

  function near(other) {
    try {
      return other !== window && other.location.origin === origin ? other : null;
    } catch (_) {
      return null; // another origin
    }
  }

  // Rocket.Chat's login page: only a page of our own origin is it.
  const chat = near(window.parent);

  function bridged(view) {
    const handlers = view && view.webkit && view.webkit.messageHandlers;
    return !!(view && (view.ReactNativeWebView || (handlers && handlers.ReactNativeWebView)));
  }

  // The window that the mobile app listens on. Asked anew each time: the app may arrive after us.
  function appWindow() {
    const top = near(window.top) || window;
    if (bridged(window) || bridged(top)) return top;
    const named = /\bRC Mobile\b|\bRocket\.?Chat\b/i.test(navigator.userAgent) && !electron;
    return named && window.parent === window ? window : null;
  }

  function place() {
    return appWindow() ? 'app' : chat ? 'chat' : 'tab';
  }

  // ---- What is shown -----------------------------------------------------------------------------

  function part(name) {
    return document.querySelector('[data-gantry="' + name + '"]');
  }

  // Unchanged text is left alone, so that a screen reader does not say it again.
  function write(name, text) {
    const element = part(name);
    if (element && element.textContent !== text) element.textContent = text;
  }

  function reveal(name, shown) {
    const element = part(name);
    if (element) element.hidden = !shown;
  }

  function show(view) {
    document.documentElement.setAttribute('data-state', view.state);
    document.title = view.title;
    write('title', view.title);
    write('message', view.message || '');
    write('hint', view.hint || '');
    const signIn = !!view.signIn && link();
    reveal('sign-in', signIn);
    reveal('open', !!view.open);
    reveal('again', !!view.again);
    // A page of the operator's may have one button for both.
    const retry = !!view.retry || (!!view.again && !part('again'));
    reveal('retry', retry);
    reveal('actions', signIn || !!view.open || !!view.again || retry);
    reveal('footer', !!view.id);
    if (view.id) write('reference', view.id);
    if (view.state === 'working') count(0);
  }

  // The countdown stands outside the live region: it would be read out every second.
  let counting = 0;
  function count(until) {
    clearInterval(counting);
    const tick = function () {
      const left = Math.ceil((until - Date.now()) / 1000);
      write('countdown', left > 0 ? 'Trying again in ' + left + (left === 1 ? ' second.' : ' seconds.') : '');
      if (left <= 0) clearInterval(counting);
    };
    tick();
    if (until > Date.now()) counting = setInterval(tick, 1000);
  }

  const WORDS = {
    no_session: ['You are not signed in to ' + app, 'Sign in there, then come back to the chat.'],
    signed_out: ['You have signed out of the chat', 'You are still signed in to ' + app + '.'],
    session_check_unavailable: [app + ' is not answering', 'It could not be asked whether you are signed in.'],
    rocketchat_unavailable: ['The chat is not answering', 'It may be starting.'],
    rate_limited: ['Many people are signing in right now', 'You are in the queue.'],
    user_inactive: ['Your chat account is deactivated', 'Ask an administrator of the chat to activate it.'],
    user_not_allowed: ['You have no access to this chat', 'Ask an administrator of the chat for access.'],
    seat_limit: ['The chat has no free seat', 'Ask an administrator of the chat: its licence has no seat left.'],
    identity_conflict: ['Your chat account belongs to somebody else', 'Ask an administrator of the chat to sort this out.'],
    origin_not_allowed: ['This page may not sign you in', 'The request came from a site that is not allowed to.'],
    misconfigured: ['Signing in is not set up correctly', 'Ask an administrator of the chat, and give them the reference below.'],
    refused: ['Rocket.Chat refused the sign-in', 'You are signed in to ' + app + ', but the chat did not let you in.'],
    untaken: ['The app has not taken over', 'Try again, or close this window and open it again.'],
    repeated: ['Signing in did not last', 'It was tried twice within a minute. To spare the chat, it is not tried again by itself.'],
    offline: ['You are offline', 'This page goes on by itself when the connection is back.'],
    unreachable: ['The chat server cannot be reached', 'The connection, the name look-up or a filter on the way failed.'],
    timeout: ['The chat server takes too long to answer', 'It may be busy.'],
    intercepted: ['Something else answered instead of the chat server', 'A sign-in gate or a filter may stand in the way.'],
  };
  const LASTING = ['signed_out', 'user_inactive', 'user_not_allowed', 'seat_limit', 'identity_conflict', 'origin_not_allowed', 'misconfigured', 'refused', 'untaken', 'repeated'];

  // The chat's page around us has a script that passes this on to the page that frames it.
  let relayed = '';
  function report(code, message, id) {
    if (!chat || relayed === code) return;
    relayed = code;
    chat.postMessage({ gantry: 1, event: 'error', code: code, message: message, id: id || config.request_id }, origin);
  }

  let left = false; // somebody followed the sign-in link
  function explain(answer) {
    const words = WORDS[answer.error] || ['The chat server answered with an error', 'Its status was ' + answer.status + '.'];
    const missing = answer.error === 'no_session';
    const gone = answer.error === 'signed_out';
    report(answer.error, answer.message || words[0], answer.id);
    const person = /^(user_|identity_)/.test(answer.error);
    // The server's own words, unless they only say the heading again.
    const plain = function (text) { return text.toLowerCase().replace(/[.!\s]+$/, ''); };
    const says = !missing && !gone && answer.message && plain(answer.message) !== plain(words[0]);
    const message = says ? answer.message : words[1];
    // Signed in elsewhere and still not seen here: a page of another site around us is the likely cause.
    const blocked = missing && left && !!chat && window.top !== window.parent && !near(window.top);
    const cookies = 'Already signed in? This browser may keep the cookies of ' + app + ' from embedded pages. Open the chat in a tab of its own.';
    show({
      state: 'stopped',
      title: words[0],
      message: message,
      hint: blocked ? cookies : missing ? 'This page goes on by itself as soon as you are.' : '',
      id: gone ? '' : answer.id || config.request_id,
      signIn: missing || person,
      open: blocked,
      again: gone,
      retry: !gone,
    });
  }

  // The sign-in link leads back to where the person is: to the chat that frames us, else to this page.
  function comeBack() {
    const at = new URL(window.location.href);
    if (chat) {
      at.href = /^https?:/.test(chat.location.href) ? chat.location.href : config.public_url;
      ['resumeToken', 'userId', 'layout'].forEach(function (key) {
        if (at.searchParams.has(key)) at.searchParams.delete(key);
      });
    }
    at.hash = '';
    return at.href;
  }

  function link() {
    const element = part('sign-in');
    if (!element || !config.sign_in_url) return false;
    try {
      const url = new URL(config.sign_in_url.split('{return}').join(encodeURIComponent(comeBack())), origin);
      if (!/^https?:$/.test(url.protocol)) return false;
      element.href = url.href;
    } catch (_) {
      return false;
    }
    // Apps open new tabs in the system's browser, whose cookies are no use to them. The page around us
    // goes there rather than this frame, since few sign-in pages let themselves be framed.
    const outside = chat && !electron && !appWindow();
    element.target = outside ? '_blank' : chat ? '_parent' : '_self';
    element.rel = outside ? 'noopener' : '';
    return true;
  }

  // ---- Asking ------------------------------------------------------------------------------------

  function retryAfter(value) {
    if (!value) return 0;
    const seconds = /^\s*\d+\s*$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
    return seconds > 0 ? Math.min(seconds, 3600) * 1000 : 0;
  }

  async function call(method, path, headers) {
    const abort = window.AbortController ? new AbortController() : null;
    let late = false;
    const timer = setTimeout(function () {
      late = true;
      if (abort) abort.abort();
    }, config.timeout);
    try {
      const response = await fetch(path, {
        method: method,
        headers: Object.assign({ Accept: 'application/json' }, headers),
        credentials: 'same-origin',
        cache: 'no-store',
        redirect: 'manual', // a sign-in gate's page is no answer
        signal: abort ? abort.signal : undefined,
      });
      let body = null;
      try {
        body = JSON.parse(await response.text());
      } catch (_) {
        if (late) throw _;
      }
      if (typeof body !== 'object' || Array.isArray(body)) body = null;
      if (response.status === 200 && body && !body.error) return { ok: true, body: body };
      const ours = body && typeof body.error === 'string';
      return {
        ok: false,
        status: response.status,
        error: ours ? body.error : response.status >= 400 ? 'unexpected' : 'intercepted',
        message: ours && typeof body.message === 'string' ? body.message : '',
        id: ours && typeof body.id === 'string' ? body.id : '',
        wait: retryAfter(response.headers.get('Retry-After')),
      };
    } catch (_) {
      return { ok: false, status: 0, wait: 0, error: late ? 'timeout' : navigator.onLine === false ? 'offline' : 'unreachable' };
    } finally {
      clearTimeout(timer);
    }
  }

  let asked = false; // the person wants to be let in again
  async function token(fresh) {
    const headers = { 'X-Gantry-Page': '1' };
    if (fresh) headers['X-Gantry-Fresh'] = '1';
    if (asked) headers['X-Gantry-Sign-In'] = '1';
    const answer = await call('POST', config.token_path, headers);
    if (answer.ok) asked = false;
    return answer;
  }

  // ---- The loop breaker --------------------------------------------------------------------------

  // In the session storage where it is not blocked, so that it outlives this frame.
  const memory = {};
  function recent(key) {
    let times = memory[key] || [];
    try {
      times = JSON.parse(sessionStorage.getItem(key)) || times;
    } catch (_) { /* blocked, or not ours */ }
    const now = Date.now();
    return Array.isArray(times) ? times.filter(function (time) { return time <= now && now - time < MINUTE; }) : [];
  }

  function keep(key, times) {
    memory[key] = times;
    try {
      sessionStorage.setItem(key, JSON.stringify(times));
    } catch (_) { /* blocked */ }
  }

  // Where no more rounds are allowed, there may be a better reason than that.
  async function worn() {
    const answer = await token(false);
    return answer.ok ? { error: 'repeated' } : answer;
  }

  function allowed() {
    const rounds = recent('gantry.rounds');
    const all = recent('gantry.all');
    if (rounds.length >= ROUNDS || all.length >= CEILING) return false;
    keep('gantry.rounds', rounds.concat(Date.now()));
    keep('gantry.all', all.concat(Date.now()));
    return true;
  }

  // ---- Waiting for the session -------------------------------------------------------------------

  let timer = 0;
  let attempt = 0;
  let looked = 0; // when the session was last looked at
  let held = 0; // until when we were told to wait
  let checking = false;
  let signing = false;
  let person = null; // whose session was seen last
  let settled = null; // whose sign-in came to a lasting end
  let probe = false; // ask for the token before the client does

  function plan(wait) {
    clearTimeout(timer);
    timer = setTimeout(check, wait);
  }

  function backOff() {
    const step = Math.min(1000 * Math.pow(2, attempt), LONGEST_WAIT);
    attempt = Math.min(attempt + 1, 6);
    // Spread, so that a thousand waiting pages do not ask in step.
    return step * (0.75 + Math.random() / 4) * (document.hidden ? 2 : 1);
  }

  function wait(answer) {
    const told = answer.wait > 0 ? answer.wait + Math.random() * 500 : 0;
    const pause = Math.max(told, backOff());
    held = answer.error === 'rate_limited' ? Date.now() + told : 0;
    count(answer.error !== 'no_session' && pause >= 2500 ? Date.now() + pause : 0);
    plan(pause);
  }

  // Something may have changed: look now, but not more than once a second.
  function nudge() {
    if (signing || checking || Date.now() < held) return;
    attempt = 0;
    plan(Math.max(0, looked + 1000 - Date.now()));
  }

  async function check() {
    if (checking || signing) return;
    clearTimeout(timer);
    checking = true;
    const answer = await call('GET', config.session_path);
    checking = false;
    looked = Date.now();
    if (answer.ok) {
      begin(answer.body);
      return;
    }
    if (answer.error === 'no_session') {
      // The next session is a new one: what was counted and refused does not concern it.
      keep('gantry.rounds', []);
      settled = null;
      stale = false;
    }
    explain(answer);
    wait(answer);
  }

  function nameOf(body) {
    const who = body.identity || body.user || body;
    return String(who.username || who.email || who.id || '');
  }

  function begin(body) {
    const who = nameOf(body);
    if (person !== null && person !== who) {
      // What was counted concerned somebody else.
      keep('gantry.rounds', []);
      stale = false;
    }
    person = who;
    if (settled === who) {
      plan(LONGEST_WAIT); // another person may come
      if (out) returned();
      return;
    }
    const face = place();
    if (face === 'tab') {
      show({ state: 'done', title: 'You are signed in to ' + app, message: 'Open the chat to go on.', open: true, retry: true });
      tell();
      offer(who);
      plan(LONGEST_WAIT);
      return;
    }
    signing = true;
    out = false;
    count(0);
    show({ state: 'working', title: 'Signing you in…', message: 'You are signed in to ' + app + '. Opening the chat.' });
    tell();
    (face === 'app' ? signInApp() : signInChat()).then(function (answer) {
      signing = false;
      explain(answer);
      if (LASTING.indexOf(answer.error) >= 0) {
        settled = who;
        out = answer.error === 'signed_out';
        plan(LONGEST_WAIT);
      } else {
        probe = true;
        wait(answer);
      }
    });
  }

  // Whoever signed out of the chat, and then out of the host app and in again, is let in without asking. Whether it
  // is a new session there only the callback knows.
  let out = false;
  async function returned() {
    const answer = await token(false);
    if (!answer.ok || signing || !out) return;
    out = false;
    settled = null;
    check();
  }

  // ---- Framed by Rocket.Chat's login page --------------------------------------------------------

  let heard = null;
  let said = null; // what the last login-error said
  window.addEventListener('message', function (event) {
    if (!chat || event.source !== window.parent || event.origin !== origin) return;
    if (!event.data || event.data.event !== 'login-error') return;
    said = typeof event.data.response === 'string' ? event.data.response.slice(0, 200) : '';
    if (heard) heard();
  });

  // True when an error was reported; false when nothing was heard. On success this frame goes away.
  function reported(ms) {
    return new Promise(function (done) {
      const end = function (value) {
        clearTimeout(limit);
        heard = null;
        done(value);
      };
      const limit = setTimeout(end, ms, false);
      heard = function () { end(true); };
      if (said !== null) end(true);
    });
  }

  function ask() {
    said = null;
    window.parent.postMessage({ event: 'try-iframe-login' }, origin);
  }

  // Resolves to the reason why it did not work. The client asks the callback by itself, so the tokens
  // in the answers to us are left alone.
  let stale = false; // the callback's token is known to get nobody in, and there was no fresh one yet
  async function signInChat() {
    let answer;
    if (!stale) {
      if (probe || asked) {
        answer = await token(false);
        if (!answer.ok) return answer;
        probe = false;
      }
      if (!allowed()) return worn();
      ask();
      if (!(await reported(REPLY_WAIT))) {
        // Some generations never reply. A login that is still under way is waited for, a refusal explained.
        answer = await token(false);
        if (!answer.ok) return answer;
        await reported(2000);
      }
    }
    answer = await token(true);
    stale = answer.error === 'rate_limited'; // then the next round begins here
    if (!answer.ok) return answer;
    if (!allowed()) return worn();
    ask();
    await reported(REPLY_WAIT);
    answer = await token(false);
    if (!answer.ok) return answer;
    return { error: 'refused', message: said ? 'It said: ' + said : '' };
  }

  // ---- In the mobile app's web view --------------------------------------------------------------

  function pause(ms) {
    return new Promise(function (done) { setTimeout(done, ms); });
  }

  function taken(view) {
    return view.location.hash.indexOf('loginToken') >= 0; // where the app's own listener puts it
  }

  async function signInApp() {
    if (!allowed()) return { error: 'repeated' };
    const answer = await token(stale);
    if (!answer.ok) return answer;
    const message = { event: 'login-with-token', loginToken: answer.body.loginToken };
    // The app's listener is injected when the page has loaded, which may be after the first of these.
    const gaps = [0, 250, 500, 750, 1500, 2000];
    const view = appWindow() || window;
    for (let i = 0; i < gaps.length && !taken(view); i += 1) {
      await pause(gaps[i]);
      view.postMessage(message, origin);
      // Another app's web view may frame the chat, whose client listens as well.
      if (chat && chat !== view) chat.postMessage(message, origin);
    }
    await pause(10000); // the app takes three seconds and then closes this view
    stale = true;
    return { error: 'untaken' };
  }

  // The mobile app's web view has a browser's user agent and may show no bridge: what looks like a tab on a
  // phone is offered the token too. A plain page of ours has nobody else who listens.
  let offered = null;
  async function offer(who) {
    if (offered === who || window.parent !== window || window.opener || !/\b(iPhone|iPad|Android)\b/.test(navigator.userAgent)) return;
    offered = who;
    const answer = await token(false);
    if (!answer.ok) return;
    for (let i = 0; i < 4 && !taken(window); i += 1) {
      window.postMessage({ event: 'login-with-token', loginToken: answer.body.loginToken }, origin);
      await pause(750);
    }
  }

  // ---- Hints that something changed --------------------------------------------------------------

  let channel = null;
  try {
    channel = new BroadcastChannel('gantry');
    channel.onmessage = nudge;
  } catch (_) { /* not there, or blocked */ }

  let told = false;
  function tell() {
    if (channel && !told) channel.postMessage('session');
    told = true;
  }

  ['focus', 'pageshow', 'online'].forEach(function (name) { window.addEventListener(name, nudge); });
  window.addEventListener('offline', nudge);
  document.addEventListener('visibilitychange', function () { if (!document.hidden) nudge(); });
  window.addEventListener('storage', function (event) {
    if (event.key === null || /^Meteor\.(loginToken|userId)$/.test(event.key)) nudge();
  });

  function press(name, action) {
    const element = part(name);
    if (element) element.addEventListener('click', action);
  }

  function retry() {
    keep('gantry.rounds', []);
    keep('gantry.all', []);
    settled = null;
    probe = false;
    attempt = 0;
    held = 0;
    relayed = '';
    show({ state: 'working', title: 'Signing you in…', message: 'Checking whether you are signed in to ' + app + '.' });
    check();
  }
  press('retry', function () {
    asked = out;
    retry();
  });
  press('again', function () {
    asked = true;
    retry();
  });
  press('sign-in', function () {
    left = true;
    link(); // the chat around us may have moved on
  });

  const open = part('open');
  if (open) {
    open.href = new URL(config.public_url).pathname;
    open.target = chat ? '_blank' : '_self';
    open.rel = 'noopener';
  }
  const stuck = part('stuck');
  if (stuck) stuck.remove();

  // The mobile app may show itself after this looked like a tab.
  let watches = place() === 'app' ? 0 : 40;
  const watch = setInterval(function () {
    watches -= 1;
    if (watches > 0 && place() !== 'app') return;
    clearInterval(watch);
    if (watches > 0) nudge();
  }, 500);

  check();
})();
