//! `embed.js`: how it is served, and what it does in a page, with a frame that speaks as Gantry's own script does, and
//! one that speaks as Rocket.Chat's client does alone.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use gantry::demo::client;
use gantry::edge::scripts::{EMBED, EMBED_TYPES, PINNED, integrity};
use http::Method;
use serde_json::{Value, json};

use super::support::browser::{Browser, Looks};
use super::support::origin::Origin;
use super::support::proxy::Proxy;
use super::support::world::World;

const README: &str = include_str!("../../README.md");
const TOP: &[&str] = &[];
const FRAME: &[&str] = &["iframe[data-gantry-frame]"];

#[tokio::test]
async fn the_files_are_served_as_pages_of_other_sites_need_them() {
    let world = World::start().await;
    let pinned = format!("/_gantry/{PINNED}");
    for (path, media_type, keep, body) in [
        ("/_gantry/embed.js", "text/javascript; charset=utf-8", "no-cache", EMBED),
        (&pinned, "text/javascript; charset=utf-8", "public, max-age=31536000, immutable", EMBED),
        ("/_gantry/embed.d.ts", "text/plain; charset=utf-8", "no-cache", EMBED_TYPES),
    ] {
        for origin in
            [vec![], vec![("origin", "https://app.test")], vec![("origin", "https://anybody.example"), ("sec-fetch-site", "cross-site")]]
        {
            let reply = world.get(path, &origin).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, body), "{path} {origin:?}");
            let header = |name| reply.header(name);
            assert_eq!((header("content-type"), header("cache-control")), (media_type, keep), "{path}");
            assert_eq!((header("access-control-allow-origin"), header("access-control-allow-credentials")), ("*", ""), "{path} {origin:?}");
            assert_eq!((header("cross-origin-resource-policy"), header("x-content-type-options")), ("cross-origin", "nosniff"));
            assert!(header("set-cookie").is_empty() && header("vary").is_empty(), "{:?}", reply.headers);
            let tag = header("etag").to_owned();
            assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");

            let again = world.get(path, &[("if-none-match", &tag)]).await;
            assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, tag.as_str()));
            assert_eq!((again.header("access-control-allow-origin"), again.header("cache-control")), ("*", keep));
            assert_eq!(world.get(path, &[("if-none-match", "\"another\"")]).await.status, 200);
        }
        let head = world.send(Method::HEAD, path, &[], "").await;
        assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, body.len().to_string().as_str()));
        let post = world.post(path, &[], "x").await;
        assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD, OPTIONS"));
        let options = [("origin", "https://app.test"), ("access-control-request-method", "GET")];
        assert_eq!(world.send(Method::OPTIONS, path, &options, "").await.header("access-control-allow-origin"), "*");
    }
    let other = world.get("/_gantry/embed-99.0.0.js", &[("origin", "https://app.test")]).await;
    assert_eq!((other.status, other.header("cache-control")), (404, "no-store"));
    assert!(other.json()["message"].as_str().unwrap().contains(PINNED), "{}", other.text());
    assert_eq!(world.metric("gantry_http_requests_total{route=\"upstream\",code=\"200\"}").await, 0, "Rocket.Chat was not asked");
}

#[tokio::test]
async fn nothing_of_the_configuration_is_in_the_script() {
    let here = World::start().await;
    let there =
        World::keys(&[("login.prefix", "/sso/"), ("server.public_url", "http://localhost"), ("limits.logins_per_client", "1")]).await;
    for _ in 0..3 {
        // It is no login, and so not counted as one: a page may be loaded by a whole office at once.
        assert_eq!(here.get("/_gantry/embed.js", &[]).await.text(), there.get("/sso/embed.js", &[]).await.text());
    }
    assert_eq!(
        there.get("/_gantry/embed.js", &[]).await.text(),
        here.get("/not-ours", &[]).await.text(),
        "another prefix is Rocket.Chat's"
    );
}

#[tokio::test]
async fn the_readme_has_the_pages_that_the_demo_shows_and_the_hash() {
    let element = format!("integrity=\"{}\"", integrity());
    assert!(README.contains(&element), "README.md needs {element}");
    assert!(README.contains(&format!("/_gantry/{PINNED}")), "README.md needs {PINNED}");
    let blocks: Vec<&str> = README.split("```html\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let page = include_str!("../../src/demo/assets/embed.html");
    assert!(blocks.contains(&page), "README.md's page is not the demo's");
    let bearer = include_str!("../../src/demo/assets/bearer.html");
    let part = blocks.iter().find(|block| block.contains("bearer:")).expect("the example with a bearer token");
    for line in part.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(bearer.contains(line), "the demo does not have: {line}");
    }
    // Every option, method, event and code of the types is told of.
    for line in EMBED_TYPES.lines().map(str::trim) {
        let name: String = line.trim_start_matches("readonly ").chars().take_while(char::is_ascii_alphanumeric).collect();
        let declares = !name.is_empty() && line.trim_start_matches("readonly ")[name.len()..].starts_with([':', '?', '(', '<']);
        assert!(!declares || README.contains(&name), "README.md does not have {name}");
        let literal = line.strip_prefix("| '").and_then(|rest| rest.split('\'').next());
        assert!(literal.is_none_or(|code| README.contains(&format!("`{code}`"))), "README.md does not have {literal:?}");
    }
}

/// A page of the chat's that says what the test has it say, and keeps what it is told.
const FAKE: &str = "<!doctype html><title>fake</title><script>
    window.got = [];
    const say = (about) => parent.postMessage({ gantry: 1, ...about }, '*');
    const rc = (eventName, data) => parent.postMessage({ eventName, data }, '*');
    const told = (command) => got.filter((data) => data.command === command);
    addEventListener('message', ({ data }) => {
      got.push(data);
      if (GUARD && data.command === 'hello') say({ event: 'ready', version: 'fake' });
    });
  </script>";

const LISTEN: &str = "window.got = []; window.problems = []; window.onerror = (words) => problems.push(words);
    window.listen = (chat) => {
      for (const event of ['ready', 'signed-in', 'signed-out', 'error', 'unread', 'room']) chat.on(event, (about) => got.push([event, about]));
      return window.chat = chat;
    };
    window.all = (event) => got.filter(([name]) => name === event).map(([, about]) => about);";

/// A host page and a chat whose pages are [`FAKE`], on two origins, and a browser.
struct Pages {
    browser: Browser,
    host: String,
    chat: String,
    _proxy: Proxy,
}

fn page(head: &str, body: &str) -> Vec<u8> {
    let text = format!("<!doctype html><html><head>{head}</head><body>{body}</body></html>");
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

impl Pages {
    async fn open(guard: bool) -> Self {
        let upstream = Origin::answering(move |_| page(&FAKE.replace("GUARD", if guard { "true" } else { "false" }), "")).await;
        let at: Arc<OnceLock<String>> = Arc::default();
        let known = Arc::clone(&at);
        let host = Origin::answering(move |head| {
            let script = |attributes: &str| {
                let chat = known.get().map(String::as_str).unwrap_or_default();
                format!("<script src=\"{chat}/_gantry/embed.js\" {attributes}></script><script>{LISTEN}</script>")
            };
            match head.split(' ').nth(1) {
                Some("/data") => {
                    page(&script("data-mount=\"#chat\" data-room=crew data-layout=full data-title=Crew"), "<div id=chat></div>")
                }
                Some("/element") => page(&script(""), "<gantry-chat room=crew height=200 sandbox></gantry-chat><p>x</p>"),
                _ => page(&script(""), "<div id=chat style=\"height: 300px\"></div>"),
            }
        })
        .await;
        let host = format!("http://{host}");
        let keys = [("framing.allowed_ancestors", host.as_str()), ("cors.allowed_origins", &host), ("session.guard_script", "false")];
        let proxy = Proxy::with(upstream, &keys);
        let chat = format!("http://localhost:{}", proxy.addr.port());
        at.set(chat.clone()).expect("set once");
        Self { browser: Browser::with(&Looks::default()).await, host, chat, _proxy: proxy }
    }

    /// Opens a host page and mounts the chat there with these options.
    async fn mount(&self, options: &str) {
        self.browser.open(&format!("{}/", self.host)).await;
        self.browser.run(TOP, &format!("listen(Gantry.mount('#chat', {options}))")).await;
    }

    async fn frame_says(&self, words: &str) {
        self.browser.wait(FRAME, "window.got").await;
        self.browser.run(FRAME, words).await;
    }

    async fn top(&self, script: &str) -> Value {
        self.browser.run(TOP, script).await
    }
}

#[tokio::test]
async fn a_page_is_told_each_thing_once_and_by_nobody_else() {
    let pages = Pages::open(true).await;
    let browser = &pages.browser;
    pages.mount("{ room: 'general', title: 'Team chat' }").await;
    browser.wait(TOP, "all('ready').length").await;
    assert_eq!(pages.top("return all('ready')").await, json!([{ "guard": true, "version": "fake" }]));
    let frame = "const { src, title, referrerPolicy, allow, clientWidth, clientHeight } = chat.frame;
        return [src, title, referrerPolicy, allow.includes('camera; microphone; display-capture'), clientWidth > 700, clientHeight]";
    let room = format!("{}/channel/general?layout=embedded", pages.chat);
    assert_eq!(pages.top(frame).await, json!([room, "Team chat", "strict-origin", true, true, 300]));

    // Twice, and by Rocket.Chat as well.
    pages
        .frame_says(
            "for (let i = 0; i < 2; i += 1) {
               say({ event: 'signed-in', id: '1', username: 'ada' }); say({ event: 'unread', count: 3 }); rc('unread-changed', 7);
               say({ event: 'room', path: '/channel/deep' }); rc('room-opened', { _id: 'x', t: 'c', name: 'x' });
             }
             say({ event: 'error', code: 'last', message: 'said' });",
        )
        .await;
    browser.wait(TOP, "all('error').length").await;
    let expected = json!([
        ["ready", { "guard": true, "version": "fake" }], ["signed-in", { "id": "1", "username": "ada" }], ["unread", { "count": 3 }],
        ["room", { "path": "/channel/deep" }], ["error", { "code": "last", "message": "said" }],
    ]);
    assert_eq!(pages.top("return got").await, expected);
    let late =
        "return new Promise((done) => { let user; chat.on('signed-in', (told) => { user = told; }); setTimeout(() => done(user.id)); })";
    assert_eq!(pages.top(late).await, json!("1"));

    // The page itself, and a frame of another origin.
    let others = "return new Promise((done) => {
        const evil = document.createElement('iframe');
        evil.srcdoc = '<script>parent.postMessage({ gantry: 1, event: \"signed-in\", id: \"evil\", username: \"evil\" }, \"*\")</' + 'script>';
        let heard = 0;
        addEventListener('message', () => { heard += 1; if (heard === 2) done([got.length, chat.user.id]); });
        postMessage({ gantry: 1, event: 'signed-in', id: 'evil', username: 'evil' }, '*');
        document.body.append(evil);
      })";
    assert_eq!(pages.top(others).await, json!([5, "1"]));

    // Rooms: nothing leads out of the chat.
    pages.top("chat.open('weather'); chat.open('/group/a b?x=1'); chat.open(chat.frame.src.replace('/channel', '//evil.example'))").await;
    browser.wait(FRAME, "told('open').length === 3").await;
    let paths = browser.run(FRAME, "return told('open').map(({ path }) => path)").await;
    assert_eq!(paths, json!(["/channel/weather", "/group/a%20b?x=1", "/evil.example/general"]));
    let refused = "return ['//evil.example/x', 'https://evil.example', '/\\\\evil.example'].map((room) => {
        try { chat.open(room); return 'opened'; } catch (error) { return error.constructor.name; }
      })";
    assert_eq!(pages.top(refused).await, json!(["TypeError", "TypeError", "TypeError"]));

    // The chat's own logout is enough. One that the chat does not confirm is asked of Gantry.
    let logout = "chat.logout().then((done) => { window.over = done; })";
    pages.top(logout).await;
    browser.wait(FRAME, "told('logout').length === 1").await;
    pages.frame_says("say({ event: 'signed-out', reason: 'logout' })").await;
    browser.wait(TOP, "window.over === true").await;
    assert_eq!(pages.top("return [all('signed-out'), all('unread').pop()]").await, json!([[{ "reason": "logout" }], { "count": 0 }]));
    pages.frame_says("say({ event: 'signed-in', id: '1', username: 'ada' })").await;
    browser.wait(TOP, "chat.user").await;
    pages.top(logout).await;
    // Nobody is signed in to the host app here, which is what Gantry says when it is asked.
    browser.wait(TOP, "window.over === false && all('error').some(({ code, id }) => code === 'no_session' && id)").await;

    // A page that takes the frame away at once, on its way to a logout of its own.
    pages.frame_says("say({ event: 'signed-in', id: '1', username: 'ada' })").await;
    pages
        .top("window.before = performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/_gantry/logout')).length")
        .await;
    pages.top("const gone = chat; gone.logout(); gone.destroy()").await;
    browser
        .wait(TOP, "performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/_gantry/logout')).length > before")
        .await;
    pages.top("listen(Gantry.mount('#chat', { room: 'general' }))").await;

    let mistakes = "return [
        () => Gantry.mount('#none'), () => Gantry.mount('#chat', { chat: 'ftp://x' }), () => Gantry.mount('#chat', { bearer: 'x' }),
        () => Gantry.mount(document.createElement('div'), { sandbox: 'allow-scripts' }), () => chat.on('nonsense', () => {}), () => chat.on('ready'),
      ].map((mistake) => { try { mistake(); return ''; } catch (error) { return error.message; } })";
    let words = pages.top(mistakes).await;
    for (told, expected) in
        words.as_array().unwrap().iter().zip(["#none", "ftp://x", "function", "allow-same-origin", "signed-in", "function"])
    {
        assert!(told.as_str().unwrap().contains(expected), "{told} lacks {expected}");
    }
    assert_eq!(
        pages.top("chat.destroy(); return [document.querySelectorAll('iframe[data-gantry-frame]').length, problems]").await,
        json!([0, []])
    );
}

#[tokio::test]
async fn the_room_outlives_the_page_but_not_the_person() {
    let pages = Pages::open(true).await;
    let browser = &pages.browser;
    let at = async |options: &str| {
        pages.mount(options).await;
        let src = pages.top("return new URL(chat.frame.src).pathname").await;
        browser.wait(TOP, "all('ready').length").await;
        src.as_str().unwrap().to_owned()
    };
    assert_eq!(at("{ room: 'general' }").await, "/channel/general");
    pages.frame_says("say({ event: 'signed-in', id: '1', username: 'ada' }); say({ event: 'room', path: '/group/secret' })").await;
    browser.wait(TOP, "all('room').length").await;
    assert_eq!(at("{ room: 'general' }").await, "/group/secret", "the same page again");
    assert_eq!(at("{}").await, "/group/secret", "a page that does not mind");
    assert_eq!(at("{ room: 'general', keep: false }").await, "/channel/general", "one that wants none of it");
    assert_eq!(at("{ room: 'project' }").await, "/channel/project", "another page with a room of its own");
    pages.frame_says("say({ event: 'signed-in', id: '1', username: 'ada' }); say({ event: 'room', path: '/group/secret' })").await;
    browser.wait(TOP, "all('room').length").await;
    assert_eq!(at("{ room: 'project' }").await, "/group/secret");
    // Grace is sent where the page begins.
    pages.frame_says("say({ event: 'signed-in', id: '2', username: 'grace' })").await;
    browser.wait(FRAME, "told('open').some(({ path }) => path === '/channel/project')").await;
    assert_eq!(at("{ room: 'project' }").await, "/channel/project");
    pages.frame_says("say({ event: 'signed-out', reason: 'ended' })").await;
    browser.wait(TOP, "all('signed-out').length").await;
    assert_eq!(pages.top("return sessionStorage.length").await, json!(0));

    // A chat under a path: its client's paths begin there, the browser's do not.
    assert_eq!(at(&format!("{{ chat: '{}/rc/', room: '/rc/channel/x' }}", pages.chat)).await, "/rc/channel/x");
    pages.top("chat.open('y')").await;
    browser.wait(FRAME, "told('open').some(({ path }) => path === '/rc/channel/y')").await;
    browser.wait(FRAME, "got.some((data) => data.externalCommand === 'go' && data.path === '/channel/y')").await;
}

/// What libraries do that change a page without loading it, as Turbo does it.
fn swap(next: &str, after: &str) -> String {
    format!(
        "document.dispatchEvent(new CustomEvent('turbo:before-render'));
         return new Promise((done) => setTimeout(() => {{
           const body = document.createElement('body');
           body.innerHTML = {};
           document.body.replaceWith(body);
           document.dispatchEvent(new CustomEvent('turbo:render'));
           {after}
           setTimeout(() => done(document.querySelectorAll('iframe').length));
         }}))",
        json!(next)
    )
}

#[tokio::test]
async fn a_frame_lives_on_where_the_page_around_it_changes() {
    let pages = Pages::open(true).await;
    let browser = &pages.browser;
    let alive = async || browser.run(FRAME, "return window.alive === true").await == json!(true);
    for (path, next, after) in [
        ("/data", "<h1>Next</h1><div id=chat></div>", ""),
        ("/element", "<h1>Next</h1><gantry-chat room=crew></gantry-chat>", ""),
        ("/", "<h1>Next</h1><div id=chat></div>", "got = []; listen(Gantry.mount('#chat', { room: 'general' }));"),
    ] {
        browser.open(&format!("{}{path}", pages.host)).await;
        if path == "/" {
            pages.top("listen(Gantry.mount('#chat', { room: 'general' }))").await;
        }
        pages.frame_says("window.alive = true; say({ event: 'signed-in', id: '1', username: 'ada' })").await;
        browser.wait(FRAME, "told('hello').length").await;
        assert_eq!(pages.top(&swap(next, after)).await, json!(1), "{path}");
        assert!(alive().await, "{path}: the frame was loaded again");
        assert_eq!(pages.top("return document.body.contains(document.querySelector('iframe'))").await, json!(true), "{path}");
    }
    // The new page's listener hears how things stand. A page without a chat does not end it.
    browser.wait(TOP, "all('signed-in').length === 1 && all('ready').length === 1").await;
    assert_eq!(pages.top(&swap("<h1>No chat here</h1>", "")).await, json!(1));
    assert_eq!(pages.top(&swap("<div id=chat></div>", "listen(Gantry.mount('#chat', { room: 'general' }));")).await, json!(1));
    assert!(alive().await);

    // Where frames cannot be moved the room is kept.
    pages.top("Element.prototype.moveBefore = undefined; got = []").await;
    pages.frame_says("say({ event: 'room', path: '/channel/deep' })").await;
    browser.wait(TOP, "all('room').length").await;
    pages.top(&swap("<div id=chat></div>", "listen(Gantry.mount('#chat', { room: 'general' }));")).await;
    browser.wait(FRAME, "location.pathname === '/channel/deep' && !window.alive").await;
    // So it is where somebody takes the frame out and puts it back.
    pages.frame_says("say({ event: 'room', path: '/channel/deeper' })").await;
    browser.wait(TOP, "all('room').some(({ path }) => path === '/channel/deeper')").await;
    pages.top("const place = document.querySelector('#chat'); place.remove(); return new Promise((done) => setTimeout(() => { document.body.append(place); done(); }))").await;
    browser.wait(FRAME, "location.pathname === '/channel/deeper'").await;

    // The element's own ways, and its size.
    browser.open(&format!("{}/element", pages.host)).await;
    browser.wait(FRAME, "told('hello').length").await;
    pages.top("const chat = document.querySelector('gantry-chat'); chat.setAttribute('room', 'next'); chat.bearer = () => 'token'").await;
    browser
        .wait(FRAME, "told('open').some(({ path }) => path === '/channel/next') && told('bearer').some(({ token }) => token === 'token')")
        .await;
    assert_eq!(pages.top("const { frame } = document.querySelector('gantry-chat').handle; return [frame.clientHeight, frame.sandbox.contains('allow-top-navigation')]").await, json!([200, false]));
    // A container without a height of its own does not make a strip of it.
    browser.open(&format!("{}/data", pages.host)).await;
    browser.wait(TOP, "document.querySelector('iframe').clientHeight >= 320 && document.querySelector('iframe').title === 'Crew'").await;
    pages.top("addEventListener('gantry-unread', ({ detail }) => got.push(['unread', detail]))").await;
    pages.frame_says("say({ event: 'unread', count: 2 })").await;
    browser.wait(TOP, "all('unread')[0].count === 2").await;
    assert_eq!(pages.top("return problems").await, json!([]));
}

/// A token of this person that ends in so many seconds.
const JWT: &str = "const jwt = (sub, left) => ['{}', JSON.stringify({ sub, exp: Date.now() / 1000 + left }), 'x'].map((part) => btoa(part)).join('.').replaceAll('=', '');";

#[tokio::test]
async fn a_bearer_token_is_renewed_and_nobody_comes_back_who_has_left() {
    let pages = Pages::open(true).await;
    let browser = &pages.browser;
    let top = async |script: &str| pages.top(&format!("{JWT} {script}")).await;
    let handed = "told('bearer').length";
    pages.mount("{ room: 'general', bearer: () => { window.asked += 1; if (window.token === 'bad') throw new Error('no net'); return window.token; } }").await;
    browser.wait(TOP, "all('ready').length").await;
    assert_eq!(browser.run(FRAME, &format!("return {handed}")).await, json!(0), "nobody is signed in");
    top("window.token = jwt('ada', 4); chat.check()").await;
    browser.wait(FRAME, &format!("{handed} === 1")).await;
    pages.frame_says("say({ event: 'signed-in', id: '1', username: 'ada' })").await;
    browser.wait(TOP, "chat.user").await;
    // The page has a new one by the time it is asked, before the first one ends.
    top("window.token = jwt('ada', 3600)").await;
    browser.wait(FRAME, &format!("{handed} === 2")).await;

    // She logs out of the chat. A token renewed does not let her in, her own wish or another person does.
    pages.frame_says("say({ event: 'signed-out', reason: 'logout' })").await;
    browser.wait(TOP, "all('signed-out').length").await;
    top("window.token = jwt('ada', 7200); window.asked = 0; chat.check()").await;
    browser.wait(TOP, "window.asked > 0").await;
    // Messages keep their order: what was handed over would be there before this.
    top("chat.open('mark')").await;
    browser.wait(FRAME, "told('open').length === 1").await;
    assert_eq!(browser.run(FRAME, &format!("return {handed}")).await, json!(2));
    top("chat.signIn()").await;
    browser.wait(FRAME, &format!("{handed} === 3 && told('bearer')[2].again === true")).await;
    pages.frame_says("say({ event: 'signed-out', reason: 'logout' })").await;
    top("window.token = jwt('grace', 3600); chat.check()").await;
    browser.wait(FRAME, &format!("{handed} === 4 && told('bearer')[3].again === undefined")).await;

    // What may pass is tried again, what lasts is not.
    pages.frame_says("say({ event: 'error', code: 'session_check_unavailable', message: 'down' })").await;
    browser.wait(FRAME, &format!("{handed} === 5")).await;
    pages.frame_says("say({ event: 'signed-in', id: '2', username: 'grace' })").await;
    browser.wait(TOP, "chat.user && chat.user.id === '2'").await;
    top("window.token = 'bad'; chat.check()").await;
    browser.wait(TOP, "all('error').some(({ code, message }) => code === 'bearer_failed' && message.includes('no net'))").await;
    // Nobody is signed in to the host app any more.
    top("window.token = null; chat.check()").await;
    browser.wait(FRAME, "told('logout').length === 1").await;

    let left = "return [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, ...performance.getEntries().map(({ name }) => name)].join().includes(btoa('{}').replaceAll('=', '') + '.')";
    assert_eq!(top(left).await, json!(false), "the token is in no storage and no address");
}

#[tokio::test]
async fn rocketchats_own_messages_do_where_our_script_is_off() {
    let pages = Pages::open(false).await;
    let browser = &pages.browser;
    pages.mount("{ room: 'general' }").await;
    pages.frame_says("rc('unread-changed', '5'); rc('unread-changed', '•'); rc('room-opened', { _id: 'r', t: 'p', name: 'secret' }); rc('room-opened', { _id: 'd', t: 'd' })").await;
    browser.wait(TOP, "all('ready').length").await;
    let expected = json!([
        ["unread", { "count": 5 }], ["unread", { "count": 0 }], ["room", { "path": "/group/secret", "name": "secret", "id": "r" }],
        ["room", { "path": "/direct/d", "id": "d" }], ["ready", { "guard": false }],
    ]);
    assert_eq!(pages.top("return got").await, expected);
    pages.top("chat.open('weather'); chat.logout()").await;
    browser.wait(FRAME, "got.some((data) => data.externalCommand === 'go' && data.path === '/channel/weather')").await;
    browser.wait(FRAME, "got.some((data) => data.externalCommand === 'logout')").await;

    // A frame that says nothing at all, which is how a blocked one looks too.
    pages.mount("{ room: 'general' }").await;
    browser.wait(TOP, "all('error').some(({ code }) => code === 'frame_silent')").await;
    assert_eq!(pages.top("return all('ready')").await, json!([]));
}

/// The example pages of the demo as they are served, without a browser.
#[tokio::test]
async fn the_demo_serves_the_examples_with_its_own_chat() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = gantry::demo::host_app::Options { chat_url: "http://localhost:8080/".into(), ..Default::default() };
    let app = gantry::demo::host_app::HostApp::start(listener, options).unwrap();
    let addr: SocketAddr = app.addr();
    for path in ["/embed", "/bearer"] {
        let text = client::get(addr, path, &[]).await.unwrap().text();
        assert!(text.contains("src=\"http://localhost:8080/_gantry/embed.js\"") && !text.contains("chat.example.com"), "{text}");
    }
}
