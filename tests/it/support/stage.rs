//! The demo with a browser in front of it.

use std::io;

use gantry::app::{Bound, Running};
use gantry::config;
use gantry::demo::events::Feed;
use gantry::demo::{Demo, Ports};
use serde_json::json;

use super::audit::{self, Turn};
use super::browser::{Browser, Looks};

/// The chat, framed by the host app's page.
pub const CHAT: &[&str] = &["#chat"];
/// Our loading page, framed by the chat's login page there.
pub const LOADING: &[&str] = &["#chat", "iframe.login"];
/// The page itself.
pub const TOP: &[&str] = &[];

/// The demo, Gantry and a browser. Everything ends with this value.
pub struct Stage {
    pub browser: Browser,
    pub demo: Demo,
    _gantry: Running,
    _turn: Turn,
}

impl Stage {
    /// A stage with a plain browser.
    pub async fn set() -> Self {
        Self::with(&Looks::default()).await
    }

    /// A stage with a browser of these looks.
    pub async fn with(looks: &Looks<'_>) -> Self {
        Self::configured(looks, "", &[]).await
    }

    /// The same, with these keys set in Gantry's configuration.
    pub async fn keys(looks: &Looks<'_>, keys: &[(&str, &str)]) -> Self {
        Self::configured(looks, "", keys).await
    }

    /// The same, with these lines at the end of Gantry's configuration, and these keys set.
    pub async fn configured(looks: &Looks<'_>, more: &str, keys: &[(&str, &str)]) -> Self {
        let keys: Vec<_> = keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let feed = Feed::default();
        let turn = audit::listen(&feed).await;
        let mut gantry = None;
        let demo = Demo::start(Ports::default(), feed, |toml| {
            let toml = format!("{toml}\n{more}");
            let loaded = config::load(Some(("the demo's configuration", &toml)), [], &keys).expect("the demo's configuration is sound");
            let started = Bound::bind(loaded.config).and_then(Bound::start).map_err(io::Error::other);
            std::future::ready(started.map(|running| gantry.insert(running).public_addr()))
        });
        let demo = demo.await.expect("ports are free");
        Self { browser: Browser::with(looks).await, demo, _gantry: gantry.expect("started"), _turn: turn }
    }

    /// The chat's address, through Gantry.
    pub fn chat(&self) -> String {
        format!("http://localhost:{}", self.demo.gantry.port())
    }

    /// Changes the host session without a word to the chat, as a person does in the host app.
    pub async fn host_session(&self, user: Option<&str>) {
        let request = match user {
            Some(user) => {
                format!("fetch('/sign-in', {{ method: 'POST', redirect: 'manual', body: new URLSearchParams({{ user: '{user}' }}) }})")
            }
            None => "fetch('/sign-out', { method: 'POST', redirect: 'manual' })".to_owned(),
        };
        self.browser.run(TOP, &format!("return {request}.then(() => true)")).await;
    }

    /// Has the page in these frames believe that the person has come back to it.
    pub async fn come_back(&self, frames: &[&str]) {
        self.browser.run(frames, "window.dispatchEvent(new Event('focus'))").await;
    }

    /// Waits until the chat in these frames is signed in.
    pub async fn signed_in(&self, frames: &[&str], user: &str) {
        let state = format!("document.querySelector('#app[data-state=\"signed-in\"][data-user=\"{user}\"]')");
        self.browser.wait(frames, &state).await;
    }

    /// Waits until the loading page in these frames says this.
    pub async fn says(&self, frames: &[&str], title: &str) {
        let said = format!("document.querySelector('[data-gantry=title]').textContent === {}", json!(title));
        self.browser.wait(frames, &said).await;
    }

    /// The id that the loading page in these frames shows.
    pub async fn reference(&self, frames: &[&str]) -> String {
        let shown = "document.querySelector('[data-gantry=reference]').checkVisibility()";
        self.browser.wait(frames, shown).await;
        let id = self.browser.run(frames, "return document.querySelector('[data-gantry=reference]').textContent").await;
        id.as_str().expect("text").to_owned()
    }
}

impl Drop for Stage {
    /// A failed test says what Gantry did.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for event in self.demo.feed.after(0) {
                println!("{} {:?} {} {:?}", event.at, event.kind, event.title, event.fields);
            }
        }
    }
}
