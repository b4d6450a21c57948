//! A headless Chromium, told what to do through chromedriver's `WebDriver` interface.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry::demo::client;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a page may take to become as it should.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What an element reference is called on that interface.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A running browser. It ends with this value.
pub struct Browser {
    driver: Driver,
    session: String,
}

/// The process that drives the browser.
struct Driver {
    child: Child,
    addr: SocketAddr,
    /// Held open: a driver that cannot write ends.
    _output: BufReader<ChildStdout>,
    /// The browser's profile; removed at the end.
    profile: TempDir,
}

/// How a browser differs from a plain one.
#[derive(Default)]
pub struct Looks<'a> {
    /// Another user agent.
    pub user_agent: Option<&'a str>,
    /// A script that runs in every document before its own.
    pub before_every_page: Option<&'a str>,
    /// Takes any certificate for good.
    pub any_certificate: bool,
    /// A name that leads to this machine, and no third-party cookies but partitioned ones.
    pub other_site: Option<&'a str>,
}

impl Browser {
    /// A browser with these looks.
    pub async fn with(looks: &Looks<'_>) -> Self {
        let driver = Driver::start();
        let mut args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1280,800",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--user-data-dir={}", driver.profile.path().display()));
        if let Some(agent) = looks.user_agent {
            args.push(format!("--user-agent={agent}"));
        }
        if looks.any_certificate {
            args.push("--ignore-certificate-errors".to_owned());
        }
        if let Some(name) = looks.other_site {
            args.push(format!("--host-resolver-rules=MAP {name} 127.0.0.1"));
            args.push("--test-third-party-cookie-phaseout".to_owned());
        }
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let session = driver
            .ask(Method::POST, "/session", &wanted)
            .await
            .unwrap_or_else(|why| panic!("Chromium does not start: {why}; run tests/run, which installs what the tests need"));
        let session = session["sessionId"].as_str().expect("a session has an id").to_owned();
        let browser = Self { driver, session };
        browser
            .cdp("Emulation.setDeviceMetricsOverride", &json!({ "width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": false }))
            .await;
        if let Some(script) = looks.before_every_page {
            browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": script })).await;
        }
        browser
    }

    async fn try_post(&self, what: &str, body: &Value) -> Result<Value, String> {
        self.driver.ask(Method::POST, &format!("/session/{}/{what}", self.session), body).await
    }

    async fn post(&self, what: &str, body: &Value) -> Value {
        self.try_post(what, body).await.unwrap_or_else(|why| panic!("{what} {body}: {why}"))
    }

    async fn get(&self, what: &str) -> Value {
        let path = format!("/session/{}/{what}", self.session);
        self.driver.ask(Method::GET, &path, &Value::Null).await.unwrap_or_else(|why| panic!("{what}: {why}"))
    }

    /// A command of Chromium's own protocol.
    pub async fn cdp(&self, command: &str, params: &Value) -> Value {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": params })).await
    }

    /// Loads a page in the current tab.
    pub async fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url })).await;
    }

    /// Opens a tab, goes there, and gives the handle of the one left behind.
    pub async fn new_tab(&self) -> String {
        let here = self.get("window").await.as_str().expect("a handle").to_owned();
        let tab = self.post("window/new", &json!({ "type": "tab" })).await;
        self.post("window", &json!({ "handle": tab["handle"] })).await;
        self.cdp("Page.bringToFront", &json!({})).await;
        here
    }

    /// Goes back to a tab, as a person does: it comes to the front.
    pub async fn to_tab(&self, handle: &str) {
        self.post("window", &json!({ "handle": handle })).await;
        self.cdp("Page.bringToFront", &json!({})).await;
    }

    /// Goes to the other one of two tabs, and gives the handle of the one left behind.
    pub async fn to_other_tab(&self) -> String {
        let here = self.get("window").await.as_str().expect("a handle").to_owned();
        let all = self.get("window/handles").await;
        let other = all.as_array().expect("handles").iter().filter_map(Value::as_str).find(|handle| *handle != here);
        self.to_tab(other.expect("another tab")).await;
        here
    }

    /// Goes back to the page before, as the browser's own button does.
    pub async fn back(&self) {
        self.post("back", &json!({})).await;
    }

    /// Runs the body of a function in the frame that these selectors lead to, outermost first. Fails
    /// where a frame is not there (yet).
    pub async fn try_run(&self, frames: &[&str], script: &str) -> Result<Value, String> {
        self.try_post("frame", &json!({ "id": null })).await?;
        for selector in frames {
            let element = self.try_post("element", &json!({ "using": "css selector", "value": selector })).await?;
            self.try_post("frame", &json!({ "id": element })).await?;
        }
        self.try_post("execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// As [`try_run`](Self::try_run), where the frames are known to be there.
    pub async fn run(&self, frames: &[&str], script: &str) -> Value {
        self.try_run(frames, script).await.unwrap_or_else(|why| panic!("{frames:?} {script}: {why}"))
    }

    /// Waits until an expression is true in a frame, whatever the frame goes through meanwhile. Fails
    /// with what the page showed last.
    pub async fn wait(&self, frames: &[&str], expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        let script = format!("return Boolean({expression})");
        loop {
            let last = self.try_run(frames, &script).await;
            if last == Ok(Value::Bool(true)) {
                return;
            }
            if Instant::now() > deadline {
                let shown = self.try_run(frames, "return location.href + '\\n' + document.documentElement.innerText").await;
                let log = self.log().await;
                panic!("waited in vain in {frames:?} for {expression}; last {last:?}; it shows {shown:?}; the browser's log: {log:#?}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Clicks where a person would.
    pub async fn click(&self, frames: &[&str], selector: &str) {
        self.wait(frames, &format!("document.querySelector({})?.checkVisibility()", json!(selector))).await;
        let element = self.post("element", &json!({ "using": "css selector", "value": selector })).await;
        let id = element[ELEMENT].as_str().expect("an element reference");
        self.post(&format!("element/{id}/click"), &json!({})).await;
    }

    /// The window's picture, as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let picture = self.get("screenshot").await;
        STANDARD.decode(picture.as_str().expect("base64")).expect("base64")
    }

    /// What the browser had to complain about since the last call.
    pub async fn log(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "browser" })).await;
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Driver {
    fn start() -> Self {
        let child =
            Command::new("chromedriver").args(["--port=0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("chromedriver does not start: {error}; run tests/run, which installs what the tests need"));
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        let port = loop {
            let begins = said.len();
            let more = output.read_line(&mut said).unwrap_or_default() > 0;
            assert!(more, "chromedriver ended at once: {said}; run tests/run, which installs what the tests need");
            if let Some((_, port)) = said[begins..].split_once("started successfully on port ") {
                break port.trim().trim_end_matches('.').parse().expect("a port");
            }
        };
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { child, addr, _output: output, profile: tempfile::tempdir().expect("a place for the profile") }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = client::send(self.addr, method, path, &[("content-type", "application/json")], body.into())
            .await
            .map_err(|error| error.to_string())?;
        let value = reply.json()["value"].take();
        if reply.status == 200 {
            Ok(value)
        } else {
            Err(value["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned())
        }
    }
}

impl Drop for Driver {
    /// Ends the browser with its driver: a driver that is killed leaves it behind.
    fn drop(&mut self) {
        let asked = TcpStream::connect(self.addr).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())
        });
        if asked.is_err() {
            // It is past asking.
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}
