//! Spawning the program, and the stand-ins that it runs between.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gantry::demo::client::{self, Reply};
use gantry::demo::host_app::{self, HostApp};
use gantry::demo::rocketchat::{Options, Workspace};
use http::Method;
use tokio::net::TcpListener;

/// How long a condition may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

fn command(args: &[&str], env: &[(&str, &str)], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.args(args).env_clear().envs(env.iter().copied()).current_dir(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command that ended has left.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end in a directory of its own, without a `proxy.toml`.
pub fn gantry(args: &[&str], env: &[(&str, &str)]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let output = command(args, env, dir.path()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Everything that a program has written so far.
type Written = Arc<(Mutex<String>, Condvar)>;

/// A program that runs. It is killed with this value.
pub struct Program {
    child: Child,
    written: Written,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Program {
    pub fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn(&mut command(args, env, Path::new("/")))
    }

    /// The program behind another one that ends in running it, such as `sh -c 'ulimit …; exec "$0" run'`.
    pub fn behind(wrapper: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).env_clear().envs(env.iter().copied()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Self::spawn(command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// The program with its standard output led elsewhere.
    pub fn writing_to(out: Stdio, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn(command(args, env, Path::new("/")).stdout(out))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let written = Written::default();
        let readers = [child.stdout.take().map(|out| copy(out, &written)), child.stderr.take().map(|out| copy(out, &written))];
        Self { child, written, readers: readers.into_iter().flatten().collect() }
    }

    /// Waits until `found` makes something of what was written.
    pub fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&str) -> Option<T>) -> T {
        let (text, changed) = &*self.written;
        let deadline = Instant::now() + PATIENCE;
        let mut text = text.lock().unwrap();
        loop {
            if let Some(found) = found(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}; it wrote:\n{text}");
            text = changed.wait_timeout(text, left).unwrap().0;
        }
    }

    /// The addresses in the line that says that it listens, as text or JSON: public and admin.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        self.wait_for("the line that it listens", |text| {
            let line = text.lines().find(|line| line.contains("gantry is listening"))?;
            let after = |name: &str| {
                let keys = [format!(" {name}="), format!("\"{name}\":")];
                let (at, key) = keys.iter().find_map(|key| Some((line.find(key.as_str())?, key)))?;
                let rest = line[at + key.len()..].trim_start_matches('"');
                rest[..rest.find(['"', ' ', ','])?].parse().ok()
            };
            Some((after("listen")?, after("admin")?))
        })
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end: the exit code and everything that was written.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "the program does not end; it wrote:\n{}", self.written.0.lock().unwrap());
            std::thread::yield_now();
        }
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let code = self.child.wait().unwrap().code();
        (code, self.written.0.lock().unwrap().clone())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(mut from: impl Read + Send + 'static, written: &Written) -> std::thread::JoinHandle<()> {
    let written = Arc::clone(written);
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                return;
            }
            written.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            written.1.notify_all();
        }
    })
}

/// Both stand-ins, and the environment that puts a Gantry between them.
pub struct Apps {
    pub chat: Workspace,
    pub app: HostApp,
    pub env: Vec<(String, String)>,
}

impl Apps {
    pub async fn start(options: Options) -> Self {
        let listener = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let (service, secret) = (options.service.clone(), options.create_tokens_secret.clone());
        let chat = Workspace::start(listener().await, options).unwrap();
        let app = HostApp::start(listener().await, host_app::Options::default()).unwrap();
        let env = [
            ("GANTRY_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("GANTRY_SERVER__ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("GANTRY_SERVER__WORKERS", "1".to_owned()),
            ("GANTRY_SERVER__PUBLIC_URL", "http://chat.example.test".to_owned()),
            ("GANTRY_ROCKETCHAT__URL", chat.url()),
            ("GANTRY_ROCKETCHAT__USER_ID", service.id),
            ("GANTRY_ROCKETCHAT__AUTH_TOKEN", service.token),
            ("GANTRY_ROCKETCHAT__CREATE_TOKEN_SECRET", secret.unwrap_or_default()),
            ("GANTRY_FRAMING__ALLOWED_ANCESTORS", "http://app.example.test".to_owned()),
            ("GANTRY_CORS__ALLOWED_ORIGINS", "http://app.example.test".to_owned()),
            ("GANTRY_IDENTITY__SOURCE", "forward_auth".to_owned()),
            ("GANTRY_IDENTITY__FORWARD_AUTH__URL", format!("{}/api/me", app.url())),
        ];
        Self { chat, app, env: env.map(|(name, value)| (name.to_owned(), value)).to_vec() }
    }

    /// Sets a variable, or takes it out when it is empty.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.env.push((name.to_owned(), value.to_owned()));
        }
    }

    pub fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// One request and its whole answer.
pub async fn ask(addr: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let call = client::send(addr, method, path, headers, body.to_owned().into());
    tokio::time::timeout(PATIENCE, call).await.expect("the program answers").unwrap()
}

/// Asks for a token with this `Cookie` header.
pub async fn token(addr: SocketAddr, cookie: &str) -> Reply {
    ask(addr, Method::POST, "/_gantry/token", &[("cookie", cookie)], "").await
}

/// Tries until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, held).await.is_ok(), "waited in vain: {what}");
}
