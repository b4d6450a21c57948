// The chat in a page of yours. Optional; what each option and event is stands in embed.d.ts, beside this file.
//
// The page and the chat are two origins, so that all they have is messages. Each goes to the chat's exact origin,
// and is taken from the frame's own window and that origin alone. The frame has one of two partners for it: Gantry's
// own script in the chat's pages, which answers to "hello" and knows all of this; or Rocket.Chat's client, with the
// messages that its settings allow. Nothing is stored but the room, and that in this tab alone.
(() => {
  'use strict';
  if (window.Gantry && window.Gantry.mount) return; // loaded twice

  const ALLOW = 'camera; microphone; display-capture; autoplay; clipboard-read; clipboard-write; fullscreen; geolocation';
  // All that the chat needs; what it leaves out is taking the page around it somewhere else.
  const SANDBOX = 'allow-scripts allow-same-origin allow-forms allow-modals allow-popups allow-popups-to-escape-sandbox ' +
    'allow-downloads allow-storage-access-by-user-activation';
  // Trying again with the same session changes nothing about these.
  const LASTING = ['signed_out', 'user_inactive', 'user_not_allowed', 'seat_limit', 'identity_conflict', 'origin_not_allowed', 'misconfigured', 'repeated', 'storage_blocked'];
  const EVENTS = ['ready', 'signed-in', 'signed-out', 'error', 'unread', 'room'];
  const HELLOS = [0, 200, 500, 1000, 2000, 4000, 7000]; // after the frame has loaded, in ms
  const SILENCE = 8000; // and when it counts as silent
  const LOGOUT_WAIT = 3000; // for the frame to say that it is signed out
  const LONGEST_BEARER = 16384;
  const LONGEST_HOLD = 300000; // a frame that no page has a place for
  const MARK = 'data-gantry-frame';

  const chats = new Set();

  // ---- Where the chat is -------------------------------------------------------------------------

  const own = document.currentScript;
  const source = (() => {
    const match = own && /^(.*\/)embed(-[^/]*)?\.js([?#].*)?$/.exec(own.src);
    return match ? new URL(match[1]) : null;
  })();

  const locate = (options) => {
    const said = options.chat || (own && own.dataset.chat);
    let url;
    if (said) {
      try {
        url = new URL(said, location.href);
      } catch (_) { /* said below */ }
      if (!url || !/^https?:$/.test(url.protocol)) throw new TypeError(`Gantry: ${said} is no address of a chat; write it like https://chat.example.com`);
    } else if (source && source.origin !== location.origin) {
      url = new URL('/', source);
    } else {
      throw new TypeError('Gantry: where is the chat? Say it: chat: "https://chat.example.com" (data-chat in HTML); it is known by itself only where this script is loaded from there');
    }
    const prefix = options.prefix || (source && source.origin === url.origin ? source.pathname : '/_gantry/');
    return { origin: url.origin, root: url.pathname.replace(/\/*$/, ''), prefix };
  };

  // A room as a path of the chat's, without the path that the chat itself may stand under.
  const pathOf = (room, place) => {
    if (room === undefined || room === null || room === '') return '/home';
    const text = String(room);
    const full = /^(https?:|\/)/i.test(text) ? text : `/channel/${encodeURIComponent(text.replace(/^#/, ''))}`;
    let url;
    try {
      url = new URL(full, place.origin);
    } catch (_) { /* said below */ }
    if (!url || url.origin !== place.origin) throw new TypeError(`Gantry: ${text} is no room of ${place.origin}; write "general" or "/channel/general"`);
    const below = place.root && (url.pathname === place.root || url.pathname.startsWith(`${place.root}/`));
    url.searchParams.delete('layout');
    const path = below ? url.pathname.slice(place.root.length) : url.pathname;
    return path.replace(/^[/\\]*/, '/') + url.search + url.hash; // two slashes would be another host
  };

  // ---- A chat ------------------------------------------------------------------------------------

  class Chat {
    constructor(container, options) {
      this.place = locate(options);
      this.options = options;
      this.bearer = checkedBearer(options.bearer);
      const kept = options.keep === false ? null : this.recall();
      // A page that asks for another room than the one before it gets that room.
      const stays = kept && (!options.room || kept.from === pathOf(options.room, this.place));
      this.start = stays ? kept.from : pathOf(options.room, this.place);
      this.here = stays ? pathOf(kept.at, this.place) : this.start;
      this.owner = kept ? kept.user : null; // whose room that was
      this.listeners = {};
      this.last = {};
      this.user = null;
      this.guard = null; // whether Gantry's script is in the frame; null while that is open
      this.ready = false;
      this.loaded = false;
      this.wanted = null; // a room that was asked for and has not opened yet
      this.timers = {};
      this.handed = null; // the bearer token that the chat has
      this.tries = 0; // of handing one over, that were of no use
      this.out = false; // the person has logged out of the chat
      this.heard = this.heard.bind(this);
      this.frame = this.build();
      this.handle = this.handleOf();
      this.container = container;
      container.appendChild(this.frame);
      this.fit();
      this.remember();
      window.addEventListener('message', this.heard);
      chats.add(this);
    }

    build() {
      const { options } = this;
      const frame = document.createElement('iframe');
      frame.setAttribute(MARK, '');
      frame.title = options.title || 'Chat';
      frame.allow = options.allow === undefined ? ALLOW : options.allow;
      frame.referrerPolicy = 'strict-origin'; // what the page's address says is none of the chat's business
      frame.loading = options.loading === 'lazy' ? 'lazy' : 'eager';
      if (options.sandbox) {
        const rights = options.sandbox === true ? SANDBOX : String(options.sandbox);
        const missing = ['allow-scripts', 'allow-same-origin'].filter((right) => !rights.split(/\s+/).includes(right));
        if (missing.length) throw new TypeError(`Gantry: the chat does not work in a sandbox without ${missing.join(' and ')}`);
        frame.setAttribute('sandbox', rights);
      }
      const size = (value, other) => (typeof value === 'number' ? `${value}px` : value || other);
      Object.assign(frame.style, { display: 'block', border: '0', width: size(options.width, '100%'), height: size(options.height, '100%') });
      frame.addEventListener('load', () => this.arrived());
      frame.src = this.address(this.here);
      return frame;
    }

    address(path) {
      const url = new URL(this.place.root + path, this.place.origin);
      if (this.options.layout !== 'full') url.searchParams.set('layout', 'embedded');
      return url.href;
    }

    // In a container that is as high as what is in it, 100 % would be a strip.
    fit() {
      if (this.options.height || !window.ResizeObserver) return;
      const observer = new ResizeObserver(() => {
        const { style } = this.frame;
        if (!this.container.clientWidth || this.frame.parentNode !== this.container) return; // not shown yet
        observer.disconnect();
        style.height = '0px';
        const collapsed = this.container.clientHeight < 60;
        style.height = '100%';
        style.minHeight = collapsed ? 'max(20rem, 70vh)' : '';
      });
      observer.observe(this.container);
      if (this.fitting) this.fitting.disconnect();
      this.fitting = observer;
    }

    // -- Events to the page --

    emit(name, detail) {
      this.last[name] = detail;
      for (const fn of (this.listeners[name] || []).slice()) call(fn, detail);
      this.container.dispatchEvent(new CustomEvent(`gantry-${name}`, { bubbles: true, detail }));
    }

    fail(code, message, id) {
      const before = this.last.error;
      if (before && before.code === code && before.message === message) return; // the frame asks again and again
      this.emit('error', id ? { code, message, id } : { code, message });
    }

    signedIn(id, username) {
      this.tries = 0;
      this.out = false;
      this.stop('retry');
      delete this.last.error;
      delete this.last['signed-out'];
      if (this.user && this.user.id === id && this.user.username === username) return;
      this.user = { id, username };
      // What one person had open is none of the next one's business.
      const others = this.owner && this.owner !== id;
      this.owner = id;
      if (others) this.forget();
      this.emit('signed-in', { id, username });
      if (others && this.here !== this.start) this.open(this.start);
      else this.remember();
    }

    // A sign-in that was refused, and why.
    refused(code, message, id) {
      if (code === 'signed_out') this.out = true;
      this.fail(code, message, id);
      this.retry(code);
    }

    signedOut(reason) {
      if (reason === 'logout') this.out = true;
      this.counted(0);
      this.forget();
      this.owner = null;
      delete this.last.error;
      delete this.last['signed-in'];
      const before = this.last['signed-out'];
      this.user = null;
      if (!before) this.emit('signed-out', { reason });
      if (this.left) this.left(true);
    }

    counted(count) {
      const before = this.last.unread ? this.last.unread.count : 0;
      if (count !== before) this.emit('unread', { count });
    }

    opened(path, name, id) {
      if (!path) return;
      if (this.wanted && path === this.wanted.split(/[?#]/)[0]) this.wanted = null;
      const before = this.last.room;
      this.here = path;
      this.remember();
      if (before && before.path === path) return;
      const room = { path };
      if (name) room.name = name;
      if (id) room.id = id;
      this.emit('room', room);
    }

    // -- The room, kept in this tab --

    key() {
      return `gantry.room ${this.place.origin}${this.place.root}`;
    }

    recall() {
      try {
        const kept = JSON.parse(sessionStorage.getItem(this.key()));
        return kept && typeof kept.from === 'string' && typeof kept.at === 'string' && pathOf(kept.at, this.place) ? kept : null;
      } catch (_) {
        return null; // blocked, or not ours
      }
    }

    remember() {
      if (this.options.keep === false) return;
      const kept = { from: this.start, at: this.here, user: this.owner };
      try {
        sessionStorage.setItem(this.key(), JSON.stringify(kept));
      } catch (_) { /* blocked */ }
    }

    forget() {
      this.last.room = undefined;
      try {
        sessionStorage.removeItem(this.key());
      } catch (_) { /* blocked */ }
    }

    // -- The frame --

    // A page of the chat's has loaded: the first one, or the one after.
    arrived() {
      const at = Date.now();
      this.loaded = true;
      this.ready = false;
      this.guard = null;
      this.stop('hello', 'silence', 'doubt');
      const hello = (turn) => {
        this.post({ gantry: 1, command: 'hello' });
        const next = HELLOS[turn + 1];
        if (next !== undefined) this.later('hello', next - HELLOS[turn], () => hello(turn + 1));
      };
      hello(0);
      this.later('silence', SILENCE, () => {
        const silent = !(this.spoken > at - SILENCE);
        this.meets(false, '', silent);
        if (silent) this.fail('frame_silent', `Nothing is heard from the chat at ${this.place.origin}. Is it up, is ${location.origin} in framing.allowed_ancestors, and is session.guard_script on?`);
      });
    }

    // Who is in the frame is known, or nobody has said a word.
    meets(guard, version, silent) {
      if (this.ready && this.guard === guard) return;
      this.stop('hello', 'silence', 'doubt');
      this.guard = guard;
      this.ready = true;
      if (!silent && !this.last.ready) this.emit('ready', version ? { guard, version } : { guard });
      if (!this.loaded) return; // our script begins before the chat does
      if (this.wanted) this.go(this.wanted);
      this.renew(true);
    }

    post(message) {
      const target = this.frame.contentWindow;
      if (target) target.postMessage(message, this.place.origin);
    }

    // Rocket.Chat's client obeys at once where its settings allow it. Our script sees that, or finds another way.
    command(client, guard) {
      this.post(client);
      if (this.guard) this.post(Object.assign({ gantry: 1 }, guard));
    }

    heard(event) {
      if (event.source !== this.frame.contentWindow || event.origin !== this.place.origin) return;
      const { data } = event;
      if (typeof data !== 'object' || data === null) return;
      this.spoken = Date.now();
      if (data.gantry === 1) this.fromGuard(data);
      else if (this.guard !== true) this.fromClient(data);
    }

    fromGuard(data) {
      if (typeof data.event !== 'string') return;
      this.meets(true, text(data.version));
      switch (data.event) {
        case 'signed-in':
          if (text(data.id)) this.signedIn(data.id, text(data.username));
          break;
        case 'signed-out':
          this.signedOut(text(data.reason) || 'unknown');
          this.retry();
          break;
        case 'error':
          this.refused(text(data.code) || 'unknown', text(data.message), text(data.id));
          break;
        case 'unread':
          this.counted(number(data.count));
          break;
        case 'room':
          this.opened(this.checked(data.path), text(data.name), text(data.id));
          break;
        default: // of a later version
      }
    }

    // Rocket.Chat's own events (Iframe_Integration_send_enable). There is none for signing in or out.
    fromClient(data) {
      if (data.event === 'login-error' && this.guard === false) {
        this.refused('login_refused', text(data.response) || 'Rocket.Chat refused the login token.');
        return;
      }
      if (typeof data.eventName !== 'string') return;
      // The client runs, so that our script, which stands before it, would have answered by now.
      if (this.guard === null && this.loaded) {
        this.post({ gantry: 1, command: 'hello' });
        if (!this.timers.doubt) this.later('doubt', 1000, () => this.meets(false));
      }
      const about = data.data;
      if (data.eventName === 'unread-changed') this.counted(number(about));
      if (data.eventName === 'room-opened' && about) {
        const name = text(about.name);
        const kind = { p: 'group', d: 'direct' }[about.t] || 'channel';
        const last = kind === 'direct' ? text(about._id) : name;
        this.opened(last && this.checked(`/${kind}/${encodeURIComponent(last)}`), name, text(about._id));
      }
    }

    checked(path) {
      try {
        return text(path) && pathOf(path, this.place);
      } catch (_) {
        return '';
      }
    }

    open(room) {
      const path = pathOf(room, this.place);
      this.here = path;
      this.remember();
      this.wanted = path;
      if (!this.loaded) {
        const address = this.address(path);
        if (this.frame.src !== address) this.frame.src = address;
        this.wanted = null;
      } else if (this.ready) {
        this.go(path);
      }
    }

    go(path) {
      this.command({ externalCommand: 'go', path }, { command: 'open', path: this.place.root + path });
      // What a page that is just being replaced did not hear is said to the next one.
      this.later('wanted', 10000, () => { this.wanted = null; });
    }

    // -- Signing out, and in again --

    logout() {
      if (this.leaving) return this.leaving;
      this.leaving = new Promise((resolve) => {
        const ask = () => {
          this.stop('logout');
          window.removeEventListener('pagehide', ask);
          this.ask('POST', 'logout').then((answer) => {
            if (answer.ok) this.signedOut('logout');
            else {
              this.fail(answer.code, answer.message, answer.id);
              if (this.left) this.left(false);
            }
          });
        };
        this.left = (done) => {
          this.stop('logout');
          window.removeEventListener('pagehide', ask);
          this.left = this.leaving = null;
          resolve(done);
        };
        // The page may be on its way to the host app's own logout, and the frame gone before it has said anything.
        window.addEventListener('pagehide', ask);
        this.hurry = ask;
        this.command({ externalCommand: 'logout' }, { command: 'logout' });
        // Rocket.Chat's client does not say that it has done it.
        this.later('logout', this.guard ? LOGOUT_WAIT : LOGOUT_WAIT / 3, ask);
      });
      return this.leaving;
    }

    // One of Gantry's own paths. Answers of another origin can be read if cors.allowed_origins has this page's.
    async ask(method, path, bearer, again) {
      const token = bearer || this.handed;
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      if (again) headers['X-Gantry-Sign-In'] = '1';
      try {
        const response = await fetch(this.place.origin + this.place.prefix + path, {
          method,
          credentials: 'include',
          cache: 'no-store',
          keepalive: method === 'POST',
          headers,
        });
        const body = await response.json();
        if (response.status === 200 && !body.error) return { ok: true, body };
        return { ok: false, code: text(body.error) || 'unexpected', message: text(body.message), id: text(body.id) };
      } catch (_) {
        return { ok: false, code: 'unreachable', message: `${this.place.origin}${this.place.prefix}${path} cannot be asked. Is ${location.origin} in cors.allowed_origins?` };
      }
    }

    // -- Host sessions that are no cookie --

    // Asks the page for its bearer token. It is handed over if it is another one, or if it must be.
    async renew(must) {
      if (!this.bearer || !this.ready || !this.loaded || this.renewing) return;
      const { bearer } = this;
      let token;
      let failed = false;
      this.renewing = true;
      try {
        token = await bearer();
        if (token && (typeof token !== 'string' || token.length > LONGEST_BEARER || /[^\x21-\x7e]/.test(token))) {
          throw new TypeError('what it gave is no bearer token');
        }
      } catch (error) {
        failed = true;
        if (chats.has(this)) this.fail('bearer_failed', `The page cannot say who is signed in: ${(error && error.message) || error}`);
      }
      this.renewing = false;
      if (!chats.has(this) || bearer !== this.bearer) return;
      if (failed) {
        this.retry();
      } else if (!token) {
        const had = this.handed && !this.out;
        this.handed = null;
        this.stop('bearer', 'retry');
        if (had) this.logout(); // nobody is signed in at the host app any more
      } else {
        this.handOver(token, must);
      }
    }

    handOver(token, must) {
      const known = token === this.handed;
      const again = this.again === true;
      // Who has left the chat comes back by asking to, not because a token was renewed.
      if (this.out && !again && (known || (subject(token) && subject(token) === subject(this.handed)))) return;
      this.stop('bearer');
      // In time before the token ends.
      const left = expiry(token) - Date.now();
      if (left > 0) this.later('bearer', Math.min(Math.max(left - Math.min(30000, left / 5), 1000), 3600000), () => this.renew());
      if (known && !must) return;
      this.out = this.again = false;
      this.handed = token;
      if (!this.guard) this.exchange(token, again);
      else this.post(again ? { gantry: 1, command: 'bearer', token, again } : { gantry: 1, command: 'bearer', token });
    }

    // The last try was of no use, or there has to be a first one. Ever more rarely.
    retry(code) {
      if (!this.bearer || this.user || this.out || LASTING.includes(code) || this.timers.retry) return;
      this.later('retry', Math.min(1000 * Math.pow(2, this.tries), 60000), () => this.renew(true));
      this.tries += 1;
    }

    // Without our script in the frame: what it would do, in the two forms that Rocket.Chat's versions know.
    async exchange(token, again) {
      const answer = await this.ask('POST', 'token', token, again);
      if (!chats.has(this) || (this.handed || '') !== token) return;
      if (!answer.ok || !text(answer.body.loginToken)) {
        this.refused(answer.code || 'unexpected', answer.message || '', answer.id);
        return;
      }
      this.post({ event: 'login-with-token', loginToken: answer.body.loginToken });
      this.post({ externalCommand: 'login-with-token', token: answer.body.loginToken });
      const who = await this.ask('GET', 'session', token);
      if (who.ok && (this.handed || '') === token) this.signedIn(text(who.body.id), text(who.body.username));
    }

    // The person asks to be let in again, having logged out of the chat.
    signIn() {
      if (!this.ready) return;
      if (this.bearer) {
        this.again = true;
        this.renew(true);
      } else if (this.guard) {
        this.post({ gantry: 1, command: 'sign-in' });
      } else {
        this.exchange('', true);
      }
    }

    // Something may have changed.
    check() {
      if (!this.ready) return;
      if (this.guard) this.post({ gantry: 1, command: 'check' });
      this.renew();
    }

    // -- Pages that change without being loaded --

    // Moves the frame to where the next page's container takes it from. Moving reloads a frame, but for
    // moveBefore; where there is none the next mount begins with the room that was open.
    hold() {
      const root = document.documentElement;
      if (!root.moveBefore || !this.frame.isConnected) return false;
      if (this.held) return true;
      const box = this.frame.getBoundingClientRect();
      const holder = document.createElement('div');
      holder.setAttribute('aria-hidden', 'true');
      holder.inert = true;
      Object.assign(holder.style, {
        position: 'fixed', left: '0', top: '0', width: `${box.width}px`, height: `${box.height}px`, visibility: 'hidden', pointerEvents: 'none',
      });
      root.appendChild(holder);
      holder.moveBefore(this.frame, null);
      this.held = holder;
      this.swapping = true;
      this.later('swap', 3000, () => this.swapped()); // where nobody says that it is over
      this.later('hold', LONGEST_HOLD, () => this.destroy());
      return true;
    }

    // Takes the frame to a container, with its page where that can be.
    settle(container) {
      this.container = container;
      // A cached page may have a copy of the frame in it.
      for (const copy of container.querySelectorAll(`iframe[${MARK}]`)) if (copy !== this.frame) copy.remove();
      if (this.held && this.frame.isConnected && container.isConnected) container.moveBefore(this.frame, null);
      else container.appendChild(this.frame);
      if (this.held) this.held.remove();
      this.held = null;
      this.stop('hold', 'swap');
      this.fit();
    }

    // The page has been changed, as was announced.
    swapped() {
      this.swapping = false;
      this.follow();
    }

    // Other scripts have changed the page.
    follow() {
      if (this.frame.isConnected && !this.held) {
        if (!this.gone) return;
        // It was taken out and put back, and loads anew: not where it once began.
        this.gone = this.loaded = false;
        this.frame.src = this.address(this.here);
        return;
      }
      if (this.container.isConnected && this.held) {
        if (!this.swapping) this.settle(this.container);
        return;
      }
      this.gone = !this.held;
      const next = this.selector && document.querySelector(this.selector);
      if (next && next !== this.container) {
        if (this.gone) this.frame.src = this.address(this.here);
        this.loaded = this.loaded && !this.gone;
        this.gone = false;
        this.settle(next);
      }
    }

    // -- What the page has in its hands --

    handleOf() {
      const chat = this;
      const off = (event, fn) => {
        known(event);
        chat.listeners[event] = (chat.listeners[event] || []).filter((other) => other !== fn);
      };
      return Object.freeze({
        get frame() { return chat.frame; },
        get user() { return chat.user; },
        open(room) { chat.open(room); },
        logout() { return chat.logout(); },
        signIn() { chat.signIn(); },
        check() { chat.check(); },
        hold() { return chat.hold(); },
        on(event, fn) {
          known(event);
          if (typeof fn !== 'function') throw new TypeError(`Gantry: on("${event}") needs a function`);
          (chat.listeners[event] = chat.listeners[event] || []).push(fn);
          // Whoever comes late hears how things stand.
          const detail = chat.last[event];
          Promise.resolve().then(() => {
            if (detail && chat.last[event] === detail && (chat.listeners[event] || []).includes(fn)) call(fn, detail);
          });
          return () => off(event, fn);
        },
        off,
        destroy() { chat.destroy(); },
      });
    }

    destroy() {
      if (!chats.delete(this)) return;
      window.removeEventListener('message', this.heard);
      if (this.timers.logout) this.hurry();
      this.stop(...Object.keys(this.timers));
      if (this.fitting) this.fitting.disconnect();
      this.frame.remove();
      if (this.held) this.held.remove();
      this.listeners = {};
    }

    later(name, wait, fn) {
      this.stop(name);
      this.timers[name] = setTimeout(() => {
        delete this.timers[name];
        fn();
      }, wait);
    }

    stop(...names) {
      for (const name of names) {
        clearTimeout(this.timers[name]);
        delete this.timers[name];
      }
    }
  }

  // ---- Words -------------------------------------------------------------------------------------

  const text = (value) => (typeof value === 'string' ? value.slice(0, 2000) : '');

  // Rocket.Chat counts in a number, or says "•" where there is something that does not count.
  const number = (value) => {
    const count = parseInt(value, 10);
    return count > 0 ? count : 0;
  };

  const known = (event) => {
    if (!EVENTS.includes(event)) throw new TypeError(`Gantry: there is no event "${event}"; there are ${EVENTS.join(', ')}`);
  };

  // A listener that fails is its own business.
  const call = (fn, detail) => {
    try {
      fn(detail);
    } catch (error) {
      setTimeout(() => { throw error; });
    }
  };

  const checkedBearer = (bearer) => {
    if (bearer !== undefined && bearer !== null && typeof bearer !== 'function') throw new TypeError('Gantry: bearer has to be a function that gives the token');
    return bearer || null;
  };

  // What a JWT says of itself. Only Gantry checks it; here it tells when to ask for the next one.
  const claims = (token) => {
    try {
      return JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))) || {};
    } catch (_) {
      return {}; // it is none
    }
  };
  const expiry = (token) => (typeof claims(token).exp === 'number' ? claims(token).exp * 1000 : 0);
  const subject = (token) => claims(token).sub;

  // ---- Placing chats -----------------------------------------------------------------------------

  const same = (chat, options) => {
    const place = locate(options);
    return chat.place.origin === place.origin && chat.place.root === place.root && (chat.options.layout === 'full') === (options.layout === 'full');
  };

  // A page that wants another room than the one before it.
  const begin = (chat, room) => {
    if (!room) return;
    const start = pathOf(room, chat.place);
    if (start === chat.start) return;
    chat.start = start;
    chat.open(start);
  };

  const place = (target, options) => {
    const given = Object.assign({}, options);
    const container = typeof target === 'string' ? document.querySelector(target) : target;
    if (!(container instanceof Element)) throw new TypeError(`Gantry: there is no element ${typeof target === 'string' ? target : 'given'} to put the chat in`);
    for (const chat of chats) {
      if (chat.container !== container || !chat.frame.isConnected || chat.held) continue;
      if (!same(chat, given)) {
        chat.destroy();
        continue;
      }
      // Mounted once more: the same chat.
      if (given.bearer) Object.assign(chat, { bearer: checkedBearer(given.bearer) });
      begin(chat, given.room);
      return chat;
    }
    for (const chat of chats) {
      if ((chat.frame.isConnected && !chat.held) || !same(chat, given)) continue;
      if (!chat.held || given.keep === false) {
        chat.destroy(); // its page is gone, and it with it
        continue;
      }
      if (chat.container !== container) chat.listeners = {}; // of the page before
      chat.bearer = checkedBearer(given.bearer);
      chat.settle(container);
      begin(chat, given.room);
      return chat;
    }
    return new Chat(container, given);
  };

  const mount = (target, options) => place(target, options).handle;

  const NAMES = ['chat', 'prefix', 'room', 'layout', 'allow', 'height', 'width', 'title', 'loading', 'keep', 'sandbox'];

  // Options as attributes: all are text.
  const written = (read) => {
    const options = {};
    for (const name of NAMES) {
      const value = read(name);
      if (value !== null && value !== undefined) options[name] = value;
    }
    for (const name of ['height', 'width']) if (/^\d+$/.test(options[name])) options[name] = Number(options[name]);
    if ('keep' in options) options.keep = options.keep !== 'false';
    if ('sandbox' in options) options.sandbox = options.sandbox === '' || options.sandbox === 'true' ? true : options.sandbox !== 'false' && options.sandbox;
    return options;
  };

  class ChatElement extends HTMLElement {
    static get observedAttributes() { return ['room']; }

    connectedCallback() {
      if (Object.prototype.hasOwnProperty.call(this, 'bearer')) {
        this.given = this.bearer; // set before this script had run
        delete this.bearer;
      }
      if (getComputedStyle(this).display === 'inline') this.style.display = 'block';
      const options = written((name) => this.getAttribute(name));
      this.chat = place(this, Object.assign(options, { bearer: this.given }));
    }

    // Moved with its page alive.
    connectedMoveCallback() {}

    attributeChangedCallback(name, before, room) {
      if (this.chat && chats.has(this.chat) && before !== room && this.isConnected) this.chat.open(room);
    }

    get handle() { return this.chat && chats.has(this.chat) ? this.chat.handle : null; }

    get bearer() { return this.given || null; }

    set bearer(bearer) {
      this.given = checkedBearer(bearer);
      if (!this.chat) return;
      this.chat.bearer = this.given;
      this.chat.renew(true);
    }
  }

  // ---- What happens around -----------------------------------------------------------------------

  const BEFORE = ['turbo:before-render', 'turbo:before-frame-render', 'turbolinks:before-render', 'htmx:beforeSwap', 'pjax:beforeReplace', 'astro:before-swap'];
  for (const name of BEFORE) {
    document.addEventListener(name, (event) => {
      // Of a swap of one part, only the chats in it.
      const part = /frame|htmx/.test(name) ? (event.detail && event.detail.target) || event.target : null;
      for (const chat of chats) if (chat.options.keep !== false && (!(part instanceof Element) || part.contains(chat.container))) chat.hold();
    });
  }
  for (const name of ['turbo:render', 'turbo:frame-render', 'turbolinks:render', 'htmx:afterSwap', 'pjax:end', 'astro:after-swap']) {
    document.addEventListener(name, () => { for (const chat of chats) if (chat.held) chat.swapped(); });
  }
  new MutationObserver(() => { for (const chat of chats) chat.follow(); }).observe(document, { childList: true, subtree: true });

  let checked = 0;
  const change = () => {
    if (document.hidden || Date.now() - checked < 2000) return;
    checked = Date.now();
    for (const chat of chats) chat.check();
  };
  for (const name of ['focus', 'pageshow', 'online']) window.addEventListener(name, change);
  document.addEventListener('visibilitychange', change);

  window.Gantry = Object.freeze({ mount });
  if (window.customElements && !customElements.get('gantry-chat')) customElements.define('gantry-chat', ChatElement);

  // <script src="…/embed.js" data-mount="#chat">
  const selector = own && own.dataset.mount;
  if (selector) {
    const options = written((name) => own.dataset[name]);
    const placed = () => {
      if (!document.querySelector(selector)) return false;
      place(selector, options).selector = selector;
      return true;
    };
    if (!placed()) {
      const waiting = new MutationObserver(() => { if (placed()) waiting.disconnect(); });
      waiting.observe(document, { childList: true, subtree: true });
      window.addEventListener('load', () => { if (!document.querySelector(selector)) console.warn(`Gantry: there is no element ${selector} yet to put the chat in`); });
    }
  }
})();
